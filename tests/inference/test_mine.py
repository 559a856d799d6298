"""Choosing negatives: window, margins, bounds and sampling, compared with sentence-transformers' miner."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inference.mine import SPARE_RANDOM, Window, draw_random, sample, select, window_of
from inference.mine_options import MineOptions

NOTHING = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))
KEY = (42, "q")


def window(scores: list[float], options: MineOptions, reasons: dict[int, str] | None = None) -> Window:
    """The window of documents 0, 1, ... with these scores, whose texts differ."""
    reason = (reasons or {}).get
    return window_of(range(len(scores)), scores, lambda row: reason(row, ""), lambda row: row, options)


def chosen(scores: list[float], positives: list[float], **options) -> list[int]:
    """The rows that are chosen of documents with these scores, best first."""
    settings = MineOptions(**options)
    found = window(scores, settings)
    return select(found, found.scores, np.array(positives, dtype=np.float32), NOTHING, settings, KEY).rows.tolist()


def test_the_window_counts_only_documents_that_may_be_negatives():
    options = MineOptions(num_negatives=2, range_min=1, range_max=4)
    reasons = {0: "relevant", 2: "near", 5: "relevant", 7: "relevant"}
    found = window([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], options, reasons)
    assert found.rows.tolist() == [3, 4, 6]
    assert found.ranks.tolist() == [2, 3, 4]
    assert found.scores.tolist() == [5.0, 4.0, 2.0]
    assert found.passed == {"relevant": 2, "near": 1, "range_min": 1}
    assert (found.relevant, found.near) == ((0, 5), ((2, 6.0),))


def test_of_equal_texts_the_first_counts():
    options = MineOptions(num_negatives=1, range_max=2)
    found = window_of([10, 11, 12, 13], [4.0, 3.0, 2.0, 1.0], lambda row: "", lambda row: row // 2, options)
    assert (found.rows.tolist(), found.ranks.tolist(), found.passed) == ([10, 12], [1, 2], {"copy": 1})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"percentage": None}, [0, 1]),
        ({}, [2, 3]),  # at most .95 of 0.8
        ({"percentage": 0.5}, [4, 5]),
        ({"relative_margin": 0.05}, [2, 3]),
        ({"absolute_margin": 0.1}, [3, 4]),
        ({"absolute_margin": 0.1, "percentage": 0.5}, [4, 5]),  # both
        ({"percentage": None, "max_score": 0.79}, [1, 2]),
        ({"percentage": None, "min_score": 0.85}, [0]),
    ],
)
def test_margins_and_bounds(options, expected):
    scores = [0.9, 0.78, 0.75, 0.7, 0.4, 0.1]
    assert chosen(scores, [0.8, 0.95], num_negatives=2, **options) == expected


def test_a_share_of_a_score_below_zero_is_below_it():
    assert chosen([-1.9, -2.05, -2.2], [-2.0], num_negatives=1) == [2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {"relative_margin": 0.05},
        {"absolute_margin": 0.1},
        {"absolute_margin": 0.02, "relative_margin": 0.1, "max_score": 0.5},
        {"max_score": 0.4, "min_score": 0.1},
    ],
    ids=str,
)
def test_the_pairs_are_those_of_sentence_transformers(seed, options):
    """40 documents and 12 queries with one to three relevant ones, by cosine; the window is the whole corpus."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    rng = np.random.default_rng(seed)
    documents, queries = (rng.normal(size=(n, 6)).astype(np.float32) for n in (40, 12))
    documents, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (documents, queries))
    relevant = [rng.choice(40, size=rng.integers(1, 4), replace=False).tolist() for _ in range(12)]
    names = [f"document {row}" for row in range(40)]
    vectors = {**dict(zip(names, documents, strict=True)), **{f"query {i}": q for i, q in enumerate(queries)}}

    def encode(texts, **_):
        return np.stack([vectors[text] for text in texts])

    model = SimpleNamespace(
        device="cpu",
        encode_document=encode,
        encode_query=encode,
        similarity=lambda q, d: torch.as_tensor(q) @ torch.as_tensor(d).T,
        similarity_pairwise=lambda q, d: (torch.as_tensor(q) * torch.as_tensor(d)).sum(dim=1),
    )
    pairs = [(f"query {i}", names[row]) for i, own in enumerate(relevant) for row in own]
    mined = mine_hard_negatives(
        Dataset.from_dict({"query": [q for q, _ in pairs], "positive": [d for _, d in pairs]}),
        model,
        corpus=names,
        num_negatives=3,
        range_max=37,
        verbose=False,
        **options,
    )
    theirs = {(row["query"], row["negative"]) for row in mined}

    # Their window is the first range_max + 3 documents before filters, ours counts what is not relevant.
    settings = MineOptions(num_negatives=3, range_max=40, **({"percentage": None} | options))
    ours = set()
    for number, (query, own) in enumerate(zip(queries, relevant, strict=True)):
        scores = documents @ query
        order = np.argsort(-scores, kind="stable")
        reasons = {place: "relevant" for place, row in enumerate(order.tolist()) if row in own}
        found = window(scores[order].tolist(), settings, reasons)
        selection = select(found, found.scores, scores[own], NOTHING, settings, (42, f"q{number}"))
        ours |= {(f"query {number}", names[order[place]]) for place in selection.rows.tolist()}
    assert theirs
    assert ours == theirs


def test_a_reranker_changes_the_order_and_the_margin():
    options = MineOptions(num_negatives=2, range_max=4)
    found = window([0.9, 0.8, 0.7, 0.6, 0.5], options)
    rescored = np.array([1.0, 9.0, 3.0, 7.0], dtype=np.float32)
    selection = select(found, rescored, np.array([8.0], dtype=np.float32), NOTHING, options, KEY)
    assert selection.rows.tolist() == [3, 2]
    assert selection.scores.tolist() == [7.0, 3.0]
    assert selection.ranks.tolist() == [4, 3]
    assert found.rows[selection.kept_out].tolist() == [1]
    assert (selection.refused, selection.not_drawn, selection.unfilled) == ({"percentage": 1}, 1, {})


def test_an_empty_slot_has_the_reason_of_the_best_document_that_would_have_filled_it():
    options = MineOptions(num_negatives=4, range_max=5, max_score=0.6, min_score=0.2, percentage=0.9)
    found = window([0.9, 0.7, 0.5, 0.1], options)
    selection = select(found, found.scores, np.array([1.0], dtype=np.float32), NOTHING, options, KEY)
    assert selection.rows.tolist() == [2]
    assert selection.unfilled == {"max_score": 2, "min_score": 1}
    selection = select(found, found.scores, np.array([0.5], dtype=np.float32), NOTHING, options, KEY)
    assert selection.unfilled == {"percentage": 3, "min_score": 1}
    few = window([0.5], options)
    selection = select(few, few.scores, np.array([1.0], dtype=np.float32), NOTHING, options, KEY)
    assert selection.unfilled == {"too few documents": 3}


def test_random_sampling_depends_on_seed_and_query_alone():
    scores = np.linspace(0.5, 0.1, 50).tolist()
    draws = {
        (seed, query): sample(50, 5, "random", (seed, query)).tolist() for seed in (1, 2) for query in ("a", "b", "c")
    }
    assert len({tuple(draw) for draw in draws.values()}) == 6
    assert all(draw == sorted(set(draw)) for draw in draws.values())
    assert sample(50, 5, "random", (1, "a")).tolist() == draws[1, "a"]
    assert chosen(scores, [1.0], num_negatives=5, sampling="random") == sample(50, 5, "random", KEY).tolist()
    counts = np.bincount([p for i in range(2000) for p in sample(10, 3, "random", (0, f"q{i}"))], minlength=10)
    assert abs(counts - 600).max() < 100  # 4.9 standard deviations of a fair draw


def test_quantile_sampling_spreads_over_the_ranks():
    scores = np.linspace(0.5, 0.1, 50).tolist()
    assert chosen(scores, [1.0], num_negatives=5, sampling="quantile") == [5, 15, 25, 35, 45]
    assert chosen(scores[:3], [1.0], num_negatives=3, sampling="quantile", range_max=3) == [0, 1, 2]


def test_random_documents_are_no_copies_and_obey_the_margin():
    options = MineOptions(num_negatives=4, random_fraction=0.5)
    assert options.num_random == 2
    keys = [row // 2 for row in range(100)]

    def reason(row: int) -> str:
        return "relevant" if row < 50 else ""

    drawn = draw_random(100, reason, keys.__getitem__, options, KEY)
    assert len(drawn) == 2 + SPARE_RANDOM
    assert len({keys[row] for row in drawn}) == len(drawn)
    assert min(drawn) >= 50
    assert drawn.tolist() == draw_random(100, reason, keys.__getitem__, options, KEY).tolist()
    found = window([0.6, 0.5, 0.4], options)
    scores = np.array([0.96, 0.3, 0.1, 0.2, 0.0, 0.0], dtype=np.float32)  # the first is above .95 of the positive
    random = (drawn, scores, np.array([90, 0, 91, 92, 93, 94]))  # the second has the text of document 0
    selection = select(found, found.scores, np.array([1.0], dtype=np.float32), random, options, KEY)
    assert selection.rows.tolist() == [0, 1, int(drawn[2]), int(drawn[3])]
    assert selection.ranks.tolist() == [1, 2, 0, 0]
    short = tuple(part[:2] for part in random)
    selection = select(found, found.scores, np.array([1.0], dtype=np.float32), short, options, KEY)
    assert selection.unfilled == {"random": 2}


def test_random_documents_end_with_the_corpus():
    options = MineOptions(num_negatives=4, random_fraction=1.0)
    drawn = draw_random(5, lambda row: "relevant" if row == 2 else "", lambda row: row, options, KEY)
    assert sorted(drawn.tolist()) == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "best"}, "mine.sampling=best is not a choice: valid: top, random, quantile"),
        ({"output": "pairs"}, "mine.output=pairs is not a choice: valid: triplet, n_tuple, labelled_pair"),
        ({"content": "both"}, "mine.content=both is not a choice: valid: texts, ids"),
        ({"num_negatives": 0}, "mine.num_negatives=0 must be at least 1"),
        ({"range_min": -1}, "mine.range_min=-1 must be at least 0"),
        ({"range_min": 20, "range_max": 20}, "mine.range_min=20 must be below mine.range_max=20"),
        ({"range_min": 3, "range_max": 7}, "mine.num_negatives=5 is more than the 4 ranks from mine.range_min=3"),
        ({"relative_margin": -0.1}, "mine.relative_margin=-0.1 must be at least 0"),
        ({"absolute_margin": float("nan")}, "mine.absolute_margin=nan must be finite"),
        ({"percentage": 1.2}, "mine.percentage=1.2 must be above 0 and at most 1, auto, or null"),
        ({"min_score": 0.5, "max_score": 0.4}, "mine.min_score=0.5 is above mine.max_score=0.4"),
        ({"random_fraction": 1.5}, r"mine.random_fraction=1.5 must be in \[0, 1\]"),
        ({"near_duplicate": 0}, "mine.near_duplicate=0 must be above 0"),
        ({"include_positives": True}, "mine.include_positives=true is for mine.output=run"),
        ({"corpus_path": "x", "content": "ids"}, "mine.content=ids names documents of the data"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MineOptions(**options)


def test_a_margin_takes_the_place_of_the_default_percentage():
    assert MineOptions().used_percentage == 0.95
    assert MineOptions(relative_margin=0.02).used_percentage is None
    assert MineOptions(relative_margin=0.02, percentage=0.9).used_percentage == 0.9
    assert MineOptions(percentage=None).used_percentage is None
