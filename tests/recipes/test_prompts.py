"""The prompts of a run from its data sets, rows and stages."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from data.collection import Collection, Split
from data.sampling.mixture import Mixture
from models.bi_encoder import BiEncoderConfig
from models.prompts.run_prompts import MAX_ROW_PROMPTS
from recipes.prompts import check_prompts, run_prompts


def collection(
    name: str, prompts: dict[str, str | None], test: dict[str, str | None] | None = None, **own
) -> Collection:
    """A collection whose queries have these prompts."""

    def split(rows: dict[str, str | None]) -> Split:
        judged = {query: {"d": 1} for query in rows}
        texts = {query: f"{name} {query}" for query in rows}
        candidates = {query: [("d", 0.0)] for query in rows}
        return Split(texts, judged, candidates, prompts={q: text for q, text in rows.items() if text is not None})

    splits = {"train": split(prompts), "test": split(test or {"t": next(iter(prompts.values()))})}
    return Collection(name, {"d": "text"}, splits, name, **own)


def named(prompts) -> dict[str, str | None]:
    return {prompt.name: prompt.text for prompt in prompts.named}


def mixture(*sources: Collection) -> Mixture:
    return Mixture({source.name: source for source in sources}, {}, sources[0])


def test_the_prompts_of_a_data_set_are_those_of_the_export() -> None:
    data = collection("a", {"1": None}, query_prompt="q: ", document_prompt="")
    prompts = run_prompts(data, data)
    assert (prompts.query, prompts.document, prompts.named) == ("q: ", "", ())


@pytest.mark.parametrize(
    ("rows", "test", "own", "query", "others"),
    [
        ({"1": "p", "2": "p"}, None, None, "p", []),
        ({"1": "p", "2": "p"}, None, "own", "p", []),  # no query has the data set's
        ({"1": "p", "2": "r", "3": "r"}, {"t": "r"}, None, "r", ["p"]),
        ({"1": "p", "2": "r", "3": "r"}, {"t": "r"}, "p", "p", ["r"]),
        ({"1": "p", "2": None}, {"t": "p"}, None, None, ["p"]),
        ({"1": "p", "2": None}, {"t": "p"}, "own", "own", ["p"]),
        ({"1": "p"}, {"t": None}, None, None, ["p"]),  # dev and test are measured without one
        ({"1": ""}, {"t": ""}, None, "", []),
    ],
)
def test_the_prompts_of_rows(rows, test, own, query, others) -> None:
    data = collection("a", rows, test, query_prompt=own)
    prompts = run_prompts(data, data)
    assert prompts.query == query
    assert sorted(named(prompts).values()) == others


def test_names_of_rows_are_words_and_differ() -> None:
    texts = ["Find it: ", "find it", "हिन्दी खोज", ">>> ", "query", "x" * 90]
    data = collection("a", dict(zip("123456", texts, strict=True)), {"t": None})
    assert named(run_prompts(data, data)) == {
        "find_it": "Find it: ",
        "find_it_2": "find it",
        "हिन्दी_खोज": "हिन्दी खोज",
        "prompt": ">>> ",
        "query_2": "query",
        "x" * 40: "x" * 90,
    }


def test_more_prompts_of_rows_than_names_are_counted() -> None:
    data = collection("a", {str(n): f"prompt {n}" for n in range(MAX_ROW_PROMPTS + 7)}, {"t": None})
    prompts = run_prompts(data, data)
    assert (len(prompts.named), prompts.unnamed) == (MAX_ROW_PROMPTS, 7)


def test_all_data_sets_of_a_mixture_have_their_names() -> None:
    first = collection("first", {"1": None}, query_prompt="q: ")
    pairs = collection("pairs", {"1": "p", "2": "p"}, document_prompt="d: ")
    plain, query = collection("plain", {"1": None}), collection("query", {"1": None}, query_prompt="other: ")
    prompts = run_prompts(mixture(first, pairs, plain, query), mixture(first, pairs, plain, query))
    assert (prompts.query, prompts.document) == ("q: ", None)
    assert named(prompts) == {
        "first": "q: ",
        "pairs": "p",
        "pairs_document": "d: ",
        "plain": None,
        "query_2": "other: ",
    }
    without = mixture(plain, collection("bare", {"1": None}))
    assert run_prompts(without, without).named == ()


def test_the_prompt_of_a_single_source_that_is_not_evaluated_has_its_name() -> None:
    pairs, test = collection("pairs", {"1": "p"}), collection("test", {"1": None}, query_prompt="q: ")
    data = Mixture({"pairs": pairs}, None, test, held_out_alone=True)
    prompts = run_prompts(data, data)
    assert (prompts.query, named(prompts)) == ("q: ", {"pairs": "p"})


def test_the_prompts_of_a_stage_s_own_data() -> None:
    run = collection("run", {"1": None}, query_prompt="q: ")
    own = collection("own.jsonl", {"1": "p", "2": "p"})
    assert named(run_prompts(run, own, stage="warm")) == {"warm": "p"}
    plain = collection("own.jsonl", {"1": None})
    assert named(run_prompts(run, plain, stage="warm")) == {"warm": None}, "the model's own, which the export replaces"
    assert named(run_prompts(run, plain, stage="warm", adopted=True)) == {}, "the earlier stage has replaced it"
    parts = mixture(own, replace(plain, name="plain"))
    assert named(run_prompts(run, parts, stage="warm")) == {"own.jsonl": "p", "plain": None}


def test_a_choice_among_the_rows_prompts_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    options = BiEncoderConfig("unread")
    for rows, said in (({"1": "p", "2": "p"}, False), ({"1": "p", "2": "r", "3": "r"}, True)):
        data = collection("a", rows, {"t": "p"})
        check_prompts(options, data, run_prompts(data, data), may_be_lost=False)
        assert ("puts the most frequent" in caplog.text) == said
