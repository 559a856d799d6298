"""The audit: slots, scores, suspects in their order, and a sample that depends on the seed alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from inference.mine import Selection, window_of
from inference.mine_options import MineOptions
from inference.mining_audit import (
    CLOSE,
    KEPT_OUT,
    LIKE,
    NEAR,
    OUTSCORES,
    SAMPLES,
    Audit,
    MinedQuery,
    distribution,
    suspects_of,
    suspicion,
    why_suspected,
)

OPTIONS = MineOptions(num_negatives=3, suspect_margin=0.1)


def selection(rows: list[int], scores: list[float], kept_out: list[int] | None = None, **counts) -> Selection:
    return Selection(
        rows=np.array(rows, dtype=np.int64),
        scores=np.array(scores, dtype=np.float32),
        ranks=np.arange(1, len(rows) + 1),
        refused=Counter(counts.get("refused", {})),
        not_drawn=counts.get("not_drawn", 0),
        unfilled=Counter(counts.get("unfilled", {})),
        kept_out=np.array(kept_out or [], dtype=np.int64),
    )


def query(number: int, found: Selection | None, positives: list[float]) -> MinedQuery:
    relevant = np.arange(100, 100 + len(positives))
    return MinedQuery(number, f"q{number}", relevant, np.array(positives, dtype=np.float32), found)


def test_slots_are_counted_with_their_reasons():
    audit = Audit(OPTIONS, seed=1)
    full = query(0, selection([1, 2, 3], [0.5, 0.4, 0.3], not_drawn=4, refused={"percentage": 2}), [0.9, 0.6])
    part = query(1, selection([1], [0.1], unfilled={"percentage": 2}, refused={"percentage": 9}), [0.2])
    for each in (replace(full, passed=Counter(relevant=2)), part, query(2, None, [])):
        audit.add(each)
    assert (audit.queries, audit.slots, audit.filled, audit.full_queries) == (3, 9, 4, 1)
    assert audit.unfilled == {"percentage": 2, "no relevant document": 3}
    assert audit.filled + audit.unfilled.total() == audit.slots
    assert audit.window == 3 + 4 + 2 + 1 + 9
    assert (audit.refused, audit.passed, audit.not_drawn) == ({"percentage": 11}, {"relevant": 2}, 4)
    scores = audit.distributions()
    assert scores["positive"]["number"] == 3
    assert scores["negative"]["max"] == np.float32(0.5)
    np.testing.assert_allclose(scores["difference"]["min"], 0.1, rtol=1e-5)  # of the lowest positive, 0.6


def test_distributions_are_those_of_numpy():
    found = distribution(np.array([1.0, 2.0, 3.0, 10.0]))
    assert found == {
        "number": 4, "mean": 4.0, "deviation": np.sqrt(12.5), "min": 1.0, "25 %": 1.75, "median": 2.5, "75 %": 4.75,
        "max": 10.0,
    }  # fmt: skip
    assert distribution(np.empty(0)) == {"number": 0}


def suspects(likeness: dict[int, float], *, threshold: float = 0.9) -> np.ndarray:
    """Those of a query whose positive scores 1: negatives 0 to 2 and the window's documents 3 to 8, kept out."""
    scores = [1.2, 1.1, 1.05, 1.0, 0.99, 0.98, 0.97, 0.95, 0.5]
    rows = [3, 4, 5, 6, 7, 8, 0, 1, 2]
    reasons = {9: "near"}
    window = window_of([9, *rows], [1.3, *scores], lambda row: reasons.get(row, ""), lambda row: row, MineOptions())
    own = query(7, selection([0, 1, 2], [0.97, 0.85, 0.5], kept_out=[0, 1, 2, 3, 4, 5]), [1.0, 2.0])
    values = np.vectorize(lambda row: likeness.get(row, 0.1))
    return suspects_of(own, window, window.scores, lambda own, _: values(own), threshold, OPTIONS, is_rescored=False)


def test_negatives_near_the_positive_or_like_it_are_suspected():
    found = {int(each["row"]): int(each["why"]) for each in suspects({2: 0.95}) if each["negative"]}
    assert found == {0: CLOSE, 2: LIKE}  # 1 is 15 % below


def test_what_a_margin_kept_out_is_listed_if_it_is_like_the_positive_or_among_the_first():
    own = suspects({8: 0.92, 7: 0.7, 3: 0.6, 6: 0.95, 5: 0.91, 4: 0.93})
    assert sorted(int(each["row"]) for each in own if not each["negative"]) == [4, 5, 6, 8, 9]  # alike, or nearly equal
    own = suspects({8: 0.8, 7: 0.7, 3: 0.6})
    assert sorted(int(each["row"]) for each in own if not each["negative"]) == [3, 8, 9]  # 3 scores above the positive
    assert KEPT_OUT == 3
    assert {int(each["row"]): int(each["why"]) for each in suspects({})}[9] == NEAR | OUTSCORES


def test_likeness_orders_and_the_score_adds_at_most_its_limit():
    found = suspects({3: 0.5, 6: 0.95, 0: 0.5, 1: 0.2})
    ordered = found[np.argsort(-suspicion(found), kind="stable")]["row"].tolist()
    assert ordered[:2] == [9, 6]
    assert ordered.index(3) < ordered.index(0)  # equally alike, 3 scores above the positive


def test_a_positive_of_score_zero_and_a_score_that_is_unknown():
    found = suspects({})
    found["positive"], found["score"][0] = 0.0, np.nan
    assert np.isfinite(suspicion(found)).all()


def test_the_suspects_of_all_queries_are_in_one_order():
    audit = Audit(OPTIONS, seed=1)
    for number in range(3):
        own = suspects({0: 0.9 - number / 10})
        own["query"] = number
        audit.add(replace(query(number, selection([0, 1, 2], [0.9, 0.8, 0.7]), [1.0]), suspects=own))
    ordered = suspicion(audit.suspects())
    assert (np.diff(ordered) <= 0).all()
    assert len(ordered) == 3 * len(own)


def test_the_sample_depends_on_the_seed_and_not_on_the_order():
    def drawn(seed: int, numbers) -> list[str]:
        audit = Audit(OPTIONS, seed)
        for number in numbers:
            audit.add(query(number, selection([1], [0.5]), [1.0]))
        return [each.query_id for each in audit.samples]

    first = drawn(1, range(200))
    assert len(first) == SAMPLES
    assert first == drawn(1, reversed(range(200)))
    assert first != drawn(2, range(200))


def test_reasons_are_in_words():
    assert why_suspected(OUTSCORES | NEAR) == [
        "its score is at or above the positive's",
        "it nearly equals a relevant text",
    ]
