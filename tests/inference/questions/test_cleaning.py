"""What is removed around a question or passage, and what is left out, in several languages."""

# ruff: noqa: RUF001  (signs of other scripts look like Latin ones)

from __future__ import annotations

import pytest

from inference.questions.cleaning import CHANGES, REASONS, CleaningOptions, cleaned, is_other_language

SOURCE = "Aspirin inhibits platelets. It lowers the risk of a second heart attack in most of the patients."
PROMPT = "Read the document. Write one question about it. {document}"


def clean(text: str, source: str = SOURCE, *, options: dict | None = None, **more):
    return cleaned(text, source, PROMPT, CleaningOptions(**(options or {})), **more)


@pytest.mark.parametrize(
    ("raw", "text", "changes"),
    [
        ("What does aspirin do?", "What does aspirin do?", set()),
        ("  What   does\taspirin do? \n", "What does aspirin do?", set()),
        ("1. What does aspirin do?", "What does aspirin do?", {"numbering"}),
        ("(2) What does aspirin do?", "What does aspirin do?", {"numbering"}),
        ("- What does aspirin do?", "What does aspirin do?", {"numbering"}),
        ('"What does aspirin do?"', "What does aspirin do?", {"quotes"}),
        ("“What does aspirin do?”", "What does aspirin do?", {"quotes"}),
        ("「アスピリンは何をしますか」", "アスピリンは何をしますか", {"quotes"}),
        ("Sure, here is a question: What does aspirin do?", "What does aspirin do?", {"preamble"}),
        ("Sure! Here's one question:\n\nWhat does aspirin do?", "What does aspirin do?", {"preamble"}),
        ("Voici une question :\nQue fait l'aspirine ?", "Que fait l'aspirine ?", {"preamble"}),
        ("Question: What does aspirin do?", "What does aspirin do?", {"label"}),
        ("Question 1: **What does aspirin do?**", "What does aspirin do?", {"label", "markup"}),
        ("**Question:** What does aspirin do?", "What does aspirin do?", {"markup", "label"}),
        ("问题：阿司匹林有什么作用？", "阿司匹林有什么作用？", {"label"}),
        ("What does aspirin do?\nAnd what not?", "What does aspirin do?", {"more_lines"}),
        ("<think>It is about aspirin.</think>\nWhat does aspirin do?", "What does aspirin do?", {"thinking"}),
        ("3.5 mg of aspirin, is that enough?", "3.5 mg of aspirin, is that enough?", set()),
        ("Great Britain used it first. Why?", "Great Britain used it first. Why?", set()),
        ('Is "aspirin" a drug or a "brand"', 'Is "aspirin" a drug or a "brand"', set()),
    ],
)
def test_what_stands_around_a_question_is_removed(raw, text, changes):
    found = clean(raw)
    assert (found.text, set(found.changes), found.reason) == (text, changes, "")
    assert set(found.changes) <= set(CHANGES)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "empty"),
        ("  \n\u200b", "empty"),
        ("???", "empty"),
        ("<think>never ends", "empty"),
        ("Why", "too_short"),
        ("why " * 100, "too_long"),
        ("Aspirin inhibits platelets?", "copied"),
        ("it LOWERS the risk of a second heart-attack", "copied"),
        ("Write one question about it.", "prompt"),
        ("What does the document say about aspirin?", "refers"),
        ("aspirin platelets", ""),  # two words of it are a query
        ("heart attack aspirin second", ""),
    ],
)
def test_why_a_question_is_left_out(raw, reason):
    assert clean(raw).reason == reason
    assert not reason or reason in REASONS


def test_copies_of_a_text_without_spaces_are_found():
    source = "阿司匹林抑制血小板聚集，并降低心脏病发作的风险。"
    assert clean("抑制血小板聚集", source).reason == "copied"
    assert clean("阿司匹林如何影响血小板？", source).reason == ""
    assert clean("血小板", source, options={"min_characters": 2}).reason == "", "a word is no copy"


def test_a_text_that_was_cut_ends_with_a_whole_sentence():
    found = clean("Aspirin is a drug. What does it do? It was fou", is_finished=False)
    assert (found.text, found.changes, found.reason) == ("Aspirin is a drug. What does it do?", ("trimmed",), "")
    assert clean("What does aspirin do to the pla", is_finished=False).reason == "unfinished"
    assert clean("阿司匹林有什么作用？它", is_finished=False).text == "阿司匹林有什么作用？"
    assert clean("What does aspirin do?\nIt was", is_finished=False).text == "What does aspirin do?"


def test_a_passage_has_several_lines_and_is_no_near_copy():
    found = clean("Here is a passage:\n\nHeparin is a drug.\nIt thins blood.", is_passage=True)
    assert (found.text, found.reason) == ("Heparin is a drug. It thins blood.", "")
    source = " ".join(f"word{i}" for i in range(60))
    assert clean(source.replace("word3 ", "other "), source, is_passage=True).reason == "copied"
    assert clean(source.replace("word3 ", "other "), source, is_passage=True, options={"copied": False}).reason == ""


@pytest.mark.parametrize(
    ("text", "source", "other"),
    [
        ("阿司匹林有什么作用？", SOURCE, True),
        ("What does it do?", "阿司匹林抑制血小板聚集", True),
        ("これは何ですか", "東京大学の研究", False),
        ("Wie ist das und was macht es mit dem Risiko?", SOURCE, True),
        ("What is the risk?", SOURCE, False),
        ("aspirin platelets", SOURCE, False),  # no frequent word: it cannot be said
        ("What is it?", "aspirin 500", False),  # the source is too short
    ],
)
def test_another_language_is_told_if_it_is_sure(text, source, other):
    assert is_other_language(text, source) is other
    assert (clean(text, source, options={"same_language": True}).reason == "other_language") is other


@pytest.mark.parametrize("options", [{"min_characters": 0}, {"min_characters": 20, "max_characters": 10}])
def test_options_that_let_nothing_pass_are_refused(options):
    with pytest.raises(ValueError, match=r"clean\.m"):
        CleaningOptions(**options)
