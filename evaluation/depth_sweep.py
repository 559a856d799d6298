"""How deep to rerank: the metric at several depths, the depth that is enough, and the one from which on it hurts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from evaluation.metrics import Metrics, Qrels, Run, measure, rank
from evaluation.significance import Interval, PairedTest, corrected, interval_of, paired_test

LEVEL = 0.05


@dataclass(frozen=True)
class AtDepth:
    """What is known of one depth; depth 0 is the first stage.

    The tests are `this - other`: against the first stage and against the best shallower depth, with Holm's correction
    for all pairs of depths, and against the best of all depths without correction. None: there is no other.
    """

    depth: int
    interval: Interval
    metrics: Mapping[str, float]
    best_shallower: int | None
    vs_first_stage: PairedTest | None
    vs_best_shallower: PairedTest | None
    vs_best: PairedTest | None


@dataclass(frozen=True)
class DepthSweep:
    """The result of `sweep_depths`."""

    metric: str
    queries: int
    best: int  # the depth of the highest mean, the smallest of equal ones
    enough: int
    hurts_from: int | None
    depths: Sequence[AtDepth]

    def as_dict(self) -> dict[str, Any]:
        """The result in JSON types."""
        return asdict(self)


def reranked_to(depth: int, first_stage: Run, scores: Run) -> Run:
    """The order in which the first `depth` candidates of each query are reranked by `scores`, and the others follow in
    the order of the first stage. `first_stage[query]` has the candidates in their order."""
    run = {}
    for query, candidates in first_stage.items():
        chosen = list(candidates)[:depth]
        best = rank(query, {document: scores[query][document] for document in chosen})
        order = dict.fromkeys([*best, *rank(query, candidates)])
        run[query] = {document: -float(place) for place, document in enumerate(order)}
    return run


def sweep_depths(
    qrels: Qrels, first_stage: Run, scores: Run, depths: Sequence[int], metric: str, metrics: Sequence[str]
) -> DepthSweep:
    """Compare reranking to several depths. `scores` has a score of each of the first max(depths) candidates, which are
    scored once: every depth is derived from them.

    Enough: the smallest depth, 0 included, that is tied with the best one: the paired test finds no difference at .05,
    without correction, since a correction would call more depths tied.

    Hurts from n: the smallest depth n such that at n and at every deeper depth the metric is significantly lower than
    at the best depth shallower than n (0 included). The p-values have Holm's correction for all pairs of depths, from
    which the best is chosen: where no depth is really worse than a shallower one, some depth is accused in at most 5%
    of the evaluations. None: there is no such depth.
    """
    found = {depth: measure(qrels, reranked_to(depth, first_stage, scores), metrics) for depth in depths}
    found = {0: measure(qrels, first_stage, metrics), **dict(sorted(found.items()))}
    values = {depth: result.per_query[metric] for depth, result in found.items()}
    means = {depth: result.mean[metric] for depth, result in found.items()}
    plain = {pair: paired_test(values[pair[0]], values[pair[1]]) for pair in combinations(found, 2)}
    adjusted = dict(zip(plain, corrected({str(pair): test for pair, test in plain.items()}).values(), strict=True))
    best = _best(means)
    return DepthSweep(
        metric,
        len(qrels),
        best,
        _enough(plain, best, list(found)),
        _hurts_from(adjusted, means),
        [_at_depth(depth, found[depth], metric, means, plain, adjusted, best) for depth in found],
    )


Tests = Mapping[tuple[int, int], PairedTest]  # (shallower, deeper) -> deeper - shallower


def _best(means: Mapping[int, float]) -> int:
    return max(means, key=lambda depth: (means[depth], -depth))


def _enough(plain: Tests, best: int, depths: Sequence[int]) -> int:
    tied = (depth for depth in depths if depth < best and plain[depth, best].p_value >= LEVEL)
    return next(tied, best)


def _hurts_from(adjusted: Tests, means: Mapping[int, float]) -> int | None:
    depths = list(means)
    for place, first in enumerate(depths[1:], start=1):
        best = _best({depth: means[depth] for depth in depths[:place]})
        tests = [adjusted[best, depth] for depth in depths[place:]]
        if all(test.difference < 0 and test.p_value < LEVEL for test in tests):
            return first
    return None


def _at_depth(
    depth: int,
    result: Metrics,
    metric: str,
    means: Mapping[int, float],
    plain: Tests,
    adjusted: Tests,
    best: int,
) -> AtDepth:
    shallower = _best({other: mean for other, mean in means.items() if other < depth}) if depth else None
    return AtDepth(
        depth,
        interval_of([result.per_query[metric]]),
        dict(result.mean),
        shallower,
        adjusted[0, depth] if depth else None,
        None if shallower is None else adjusted[shallower, depth],
        _against(plain, depth, best),
    )


def _against(plain: Tests, depth: int, best: int) -> PairedTest | None:
    """The test of `depth - best`; None for the best itself."""
    if depth == best:
        return None
    if depth > best:
        return plain[best, depth]
    test = plain[depth, best]
    return PairedTest(-test.difference, -test.high, -test.low, test.p_value)
