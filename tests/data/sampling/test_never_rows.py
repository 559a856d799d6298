"""Which documents of a corpus are never negatives of a query, and why."""

from __future__ import annotations

import numpy as np
import pytest

from data.collection import Collection, Split
from data.inspection.near_duplicates import near_pairs
from data.sampling.never_negatives import NeverNegatives
from data.sampling.never_rows import CorpusTexts, Marks, NeverRowsOfQueries, overlap

WORDS = [f"word{number}" for number in range(60)]
TEXTS = {
    "own": "What is it?",
    "relevant": " ".join(WORDS),
    "copy": " ".join(WORDS).upper() + "  ",
    "nearly": " ".join([*WORDS[:-1], "end"]),
    "excluded": "an excluded text",
    "other": " ".join(WORDS[::-1]),
    "judged": "judged not relevant",
    "for another": "relevant for an equal query",
}


@pytest.fixture
def rules() -> NeverRowsOfQueries:
    queries = {"q1": "what is it?", "q2": "What  is it?"}
    qrels = {"q1": {"relevant": 2, "judged": 0}, "q2": {"for another": 1}}
    split = Split(queries, qrels, {query: [] for query in queries})
    collection = Collection("c", TEXTS, {"dev": split}, "hash", excluded={"q1": {"excluded"}})
    never = NeverNegatives({"c": collection}, "dev")
    return NeverRowsOfQueries(never, "c", CorpusTexts(TEXTS), near=0.8)


def test_each_document_has_its_reason(rules):
    rows = {name: row for row, name in enumerate(TEXTS)}
    rule = rules.of("q1", {"relevant": rows["relevant"]}, {"excluded": rows["excluded"]})
    reasons = {name: rule.reason(row) for name, row in rows.items()}
    assert reasons == {
        "own": "equal",
        "relevant": "relevant",
        "copy": "equal",
        "nearly": "near",
        "excluded": "excluded",
        "other": "",
        "judged": "",
        "for another": "equal",
    }


def test_nearly_equal_texts_may_be_allowed(rules):
    rules.near = None
    assert rules.of("q1", {"relevant": 1}, {}).reason(3) == ""


def test_an_excluded_document_that_the_corpus_lacks_is_known_by_its_text(rules):
    rule = rules.of("q1", {"relevant": 1}, {"excluded": None})
    assert rule.reason(4) == "equal"


def test_the_similarity_is_that_of_the_inspection():
    ((_, _, expected),) = near_pairs({"a": TEXTS["relevant"], "b": TEXTS["nearly"]})
    runs = [Marks.of(TEXTS[name]).runs for name in ("relevant", "nearly")]
    assert overlap(*runs) == pytest.approx(expected)
    assert overlap(runs[0], runs[0][:10]) == pytest.approx(10 / 58)
    assert overlap(runs[0], runs[0][:10], least=0.8) == 0.0
    assert overlap(runs[0], np.empty(0, dtype=np.uint64)) == 0.0


def test_words_of_a_script_without_spaces_are_pairs_of_letters():
    texts = (
        "\u5317\u4eac\u662f\u9996\u90fd\u3002",
        "\u5317\u4eac\u4e3a\u9996\u90fd",
        "\u5df4\u9ece\u662f\u57ce\u5e02",
        "\u5317",
    )
    first, second, other, letter = (Marks.of(text).words for text in texts)
    assert overlap(first, second) == pytest.approx(2 / 6)  # two of four pairs each
    assert overlap(first, other) == 0.0
    assert len(letter) == 1
