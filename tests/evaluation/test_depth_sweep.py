"""Depth sweeps: rankings derived from one scoring, and which rerankers are said to hurt."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evaluation.depth_sweep import reranked_to, sweep_depths
from evaluation.metrics import measure
from evaluation.reranking_evaluator import RerankingConfig
from runs.report.depth_page import write_depth_page
from runs.report.depths import lines_of_sweep, sentences

DEPTHS = [5, 10, 20]
CANDIDATES = [f"d{place}" for place in range(20)]


def _collection(number=100, seed=0):
    """Queries with one or two relevant candidates, most of them near the top of the first stage's order."""
    rng = np.random.default_rng(seed)
    first_stage = {f"q{n}": {name: 20.0 - place for place, name in enumerate(CANDIDATES)} for n in range(number)}
    places = np.minimum(rng.geometric(0.25, size=(number, 2)) - 1, 19)
    qrels = {f"q{n}": {CANDIDATES[place]: 1 for place in places[n]} for n in range(number)}
    return qrels, first_stage, rng


def _sweep(kind, seed=0, depths=DEPTHS):
    qrels, first_stage, rng = _collection(seed=seed)
    scores = {
        query: {
            name: {"good": 4.0, "random": 0.0, "bad": -1.5}[kind] * (name in qrels[query]) + rng.normal()
            for name in CANDIDATES
        }
        for query in qrels
    }
    found = sweep_depths(qrels, first_stage, scores, depths, "nDCG@10", ["nDCG@10", "MRR@10"])
    return found, qrels, first_stage, scores


def test_the_first_are_reranked_and_the_others_keep_their_order():
    first_stage = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}
    scores = {"q": {"a": 0.1, "b": 0.3, "c": 0.2, "d": 9.0}}

    def order(depth):
        return sorted(run := reranked_to(depth, first_stage, scores)["q"], key=lambda name: -run[name])

    assert order(0) == order(1) == ["a", "b", "c", "d"]
    assert order(2) == ["b", "a", "c", "d"]
    assert order(3) == ["b", "c", "a", "d"]
    assert order(4) == order(9) == ["d", "b", "c", "a"]
    assert reranked_to(3, {"q": {}}, {"q": {}}) == {"q": {}}


def test_each_depth_has_the_metrics_of_its_own_ranking():
    found, qrels, first_stage, scores = _sweep("good")
    assert [each.depth for each in found.depths] == [0, *DEPTHS]
    for each in found.depths:
        expected = measure(qrels, reranked_to(each.depth, first_stage, scores), ["nDCG@10", "MRR@10"])
        assert each.metrics == expected.mean
        assert each.interval.mean == pytest.approx(expected["nDCG@10"])
    assert found.depths[0].metrics == measure(qrels, first_stage, ["nDCG@10", "MRR@10"]).mean


@pytest.mark.parametrize("seed", range(3))
def test_only_a_bad_and_a_random_reranker_hurt(seed):
    good, bad, random = (_sweep(kind, seed)[0] for kind in ("good", "bad", "random"))
    assert good.hurts_from is None
    assert (bad.hurts_from, random.hurts_from) == (5, 5)
    assert (bad.enough, random.enough, bad.best, random.best) == (0, 0, 0, 0)
    assert good.best > 0


def test_equal_rankers_are_rarely_accused():
    """A reranker that changes nothing in expectation: of two equal orders it draws one for each query."""
    accused = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        first_stage = {f"q{n}": {name: 20.0 - place for place, name in enumerate(CANDIDATES)} for n in range(50)}
        swapped = rng.uniform(size=(50, 20)).argsort(axis=1)
        scores = {f"q{n}": {name: float(swapped[n][place]) for place, name in enumerate(CANDIDATES)} for n in range(50)}
        relevant = rng.integers(20, size=50)  # anywhere: no order is better than another
        qrels = {f"q{n}": {CANDIDATES[relevant[n]]: 1} for n in range(50)}
        accused += sweep_depths(qrels, first_stage, scores, DEPTHS, "MRR@10", ["MRR@10"]).hurts_from is not None
    assert accused <= 3  # 5% of 24 are 1.2; more than 3 have a probability of .03


def test_it_hurts_from_the_depth_on_from_which_every_deeper_one_is_worse():
    """Good within the first five, and below them it puts documents first that are not relevant."""
    qrels, first_stage, rng = _collection()
    scores = {
        query: {
            name: 2.0 * (name in relevant) + rng.normal() if place < 5 else 4.0 - 2.0 * (name in relevant)
            for place, name in enumerate(CANDIDATES)
        }
        for query, relevant in qrels.items()
    }
    found = sweep_depths(qrels, first_stage, scores, DEPTHS, "nDCG@10", ["nDCG@10"])
    assert (found.best, found.enough, found.hurts_from) == (5, 5, 10)
    assert found.depths[2].best_shallower == 5
    assert (
        "hurts from depth 10: this depth and every deeper one that was measured (to 20)"
        in sentences(found.as_dict())[1]
    )
    assert "than depth 5 (-" in sentences(found.as_dict())[1]


def test_the_smallest_depth_that_is_tied_with_the_best_is_enough():
    qrels, first_stage, _ = _collection()
    scores = {query: {name: float(name in relevant) for name in CANDIDATES} for query, relevant in qrels.items()}
    found = sweep_depths(qrels, first_stage, scores, [1, 19, 20], "nDCG@10", ["nDCG@10"])
    best = found.depths[-2].vs_best
    assert found.enough == 19 if best is None or best.p_value >= 0.05 else found.enough == 20
    assert "nDCG@10" in sentences(found.as_dict())[0]


def test_lines_and_page_and_json(tmp_path):
    found = json.loads(json.dumps(_sweep("random")[0].as_dict()))
    lines = lines_of_sweep("BM25", found)
    assert lines[0] == "nDCG@10 by depth of reranking, BM25:"
    assert lines[1].split()[:2] == ["depth", "nDCG@10"]
    assert [line.split()[0] for line in lines[3:7]] == ["0", "5", "10", "20"]
    assert lines[7].startswith("depth 0 (the first stage, not reranked) is enough, as far as 100 queries tell")
    assert lines[8].startswith("hurts from depth 5")
    assert "Holm's correction for all 6 pairs" in lines[9]
    write_depth_page("a <model>", {"BM25": found}, tmp_path / "depths.html")
    page = (tmp_path / "depths.html").read_text()
    assert "a &lt;model&gt;" in page
    assert "<svg" not in page  # pictures are embedded as data
    assert page.count("data:image/svg+xml;base64,") == 2  # in colours for light and for dark pages
    assert '<p class="warning">hurts from depth 5' in page
    write_depth_page("good", {"BM25": _sweep("good")[0].as_dict()}, tmp_path / "depths.html")
    assert 'class="warning"' not in (tmp_path / "depths.html").read_text()


def test_depths_are_sorted_and_the_largest_is_the_depth():
    assert RerankingConfig(depths=[50, 10, 10]).depths == [10, 50]
    assert RerankingConfig(depths=[50, 10]).depth == 50
    with pytest.raises(ValueError, match=r"eval.depths=\[0\]: give 1 to 20 depths"):
        RerankingConfig(depths=[0])
    with pytest.raises(ValueError, match="give 1 to 20 depths"):
        RerankingConfig(depths=list(range(1, 22)))
    with pytest.raises(ValueError, match="leave one out"):
        RerankingConfig(depths=[10], always_rerank_positives=True)
