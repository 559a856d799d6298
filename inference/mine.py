"""Choose the negatives of a query from ranked documents: rank window, margins, bounds and sampling.

Nothing here reads a text, runs a model or depends on a rank. A document that may never be a negative does not take a
rank. Then come the rank window, the score of a reranker if there is one, the margins to the lowest relevant document,
the bounds, and the sampling, which is keyed by (seed, query id).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.hashing import stable_hash
from inference.mine_options import MineOptions

SPARE_RANDOM = 4  # random documents drawn beside those that are needed, since margins may refuse some


@dataclass(frozen=True)
class Window:
    """The documents of one query whose rank is in the window, best first.

    `rows` int64 [n], `ranks` int64 [n] from 1 among the documents that may be negatives, `scores` float32 [n] of the
    search, `keys` int64 [n] of the texts. `passed` counts the others that were ranked before its end, by reason.
    `relevant` are the rows of relevant documents among them, `near` the rows and scores of those that are nearly equal
    to one.
    """

    rows: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    keys: np.ndarray
    passed: Counter[str]
    relevant: tuple[int, ...] = ()
    near: tuple[tuple[int, float], ...] = ()


def window_of(
    rows: Sequence[int],
    scores: Sequence[float],
    reason: Callable[[int], str],
    key: Callable[[int], int],
    options: MineOptions,
) -> Window:
    """The window of a query's ranking, best first. `reason` says why a document is never a negative of the query (""
    if it may be one), `key` is that of its text: of equal texts the first one counts."""
    passed: Counter[str] = Counter()
    kept: list[tuple[int, int, float, int]] = []
    relevant: list[int] = []
    near: list[tuple[int, float]] = []
    seen: set[int] = set()
    rank = 0
    for row, score in zip(rows, scores, strict=True):
        why = reason(row)
        if not why and key(row) in seen:
            why = "copy"
        if why:
            passed[why] += 1
            relevant += [row] if why == "relevant" else []
            near += [(row, score)] if why == "near" else []
            continue
        rank += 1
        seen.add(key(row))
        if rank > options.range_min:
            kept.append((row, rank, score, key(row)))
        else:
            passed["range_min"] += 1
        if rank == options.window_end:
            break
    columns = list(zip(*kept, strict=True)) or [()] * 4
    return Window(
        rows=np.array(columns[0], dtype=np.int64),
        ranks=np.array(columns[1], dtype=np.int64),
        scores=np.array(columns[2], dtype=np.float32),
        keys=np.array(columns[3], dtype=np.int64),
        passed=passed,
        relevant=tuple(relevant),
        near=tuple(near),
    )


@dataclass(frozen=True)
class Selection:
    """What a query's slots got. `rows`, `scores` and `ranks` of its negatives, those of the window best first, then
    the random ones, whose rank is 0.

    `refused` counts the documents of the window that a filter refused by its name, and `not_drawn` those that passed
    and were not needed. `unfilled` counts the slots that stay empty, each by the reason of the best document that would
    have filled it. `kept_out` are the places in the window that a margin or max_score refused.
    """

    rows: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    refused: Counter[str]
    not_drawn: int
    unfilled: Counter[str]
    kept_out: np.ndarray


def select(
    window: Window,
    scores: np.ndarray,
    positive_scores: np.ndarray,
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
    options: MineOptions,
    key: tuple[int, str],
) -> Selection:
    """Choose the negatives of a query with the key (seed, query id).

    `scores` float32 [n] are those by which the window's documents are compared with its relevant documents, whose
    scores are `positive_scores` [p], p > 0. `drawn` are the rows, scores and keys of random documents.
    """
    lowest = np.float32(positive_scores.min())
    places, why = _passing(scores, lowest, options)
    order = places[np.argsort(-scores[places], kind="stable")]
    wanted = options.num_negatives - options.num_random
    chosen = order[sample(len(order), wanted, options.sampling, key)]
    refused = np.array([place for place in range(len(scores)) if why[place]], dtype=np.int64)
    unfilled: Counter[str] = Counter()
    missing = wanted - len(chosen)
    unfilled.update(why[place] for place in refused[:missing].tolist())
    unfilled["too few documents"] += max(0, missing - len(refused))
    random_rows, random_scores = _random(drawn, window.keys[chosen], lowest, options)
    unfilled["random"] += options.num_random - len(random_rows)
    return Selection(
        rows=np.concatenate([window.rows[chosen], random_rows]),
        scores=np.concatenate([scores[chosen], random_scores]),
        ranks=np.concatenate([window.ranks[chosen], np.zeros(len(random_rows), dtype=np.int64)]),
        refused=Counter(why[place] for place in refused.tolist()),
        not_drawn=len(order) - len(chosen),
        unfilled=+unfilled,
        kept_out=np.array([place for place in refused.tolist() if why[place] != "min_score"], dtype=np.int64),
    )


def _passing(scores: np.ndarray, lowest: np.float32, options: MineOptions) -> tuple[np.ndarray, list[str]]:
    """The places that no filter refuses, and for each place the first filter that does ("" if none)."""
    why = [""] * len(scores)
    for name, refuses in options.refusals(scores, lowest).items():
        for place in np.flatnonzero(refuses).tolist():
            why[place] = why[place] or name
    return np.array([place for place, name in enumerate(why) if not name], dtype=np.int64), why


def sample(total: int, wanted: int, sampling: str, key: tuple[int, str]) -> np.ndarray:
    """The places that are drawn from `total` documents, best first: all of them if they are not more than `wanted`.

    "top": the first ones; "random": any, by the key (seed, query id); "quantile": the middle of each of `wanted` parts
    of equal length.

    >>> sample(10, 2, "quantile", (0, "q")).tolist(), sample(10, 2, "top", (0, "q")).tolist()
    ([2, 7], [0, 1])
    """
    if total <= wanted or sampling == "top":
        return np.arange(min(total, wanted))
    if sampling == "quantile":
        return ((np.arange(wanted) + 0.5) * total / wanted).astype(np.int64)
    rng = np.random.default_rng(stable_hash("mined", *key))
    return np.sort(rng.choice(total, size=wanted, replace=False))


def draw_random(
    total: int, reason: Callable[[int], str], text_key: Callable[[int], int], options: MineOptions, key: tuple[int, str]
) -> np.ndarray:
    """The rows (int64) of random documents that may be negatives, with different texts: those that are needed and
    some to spare, as far as there are so many. They depend on the key (seed, query id) alone."""
    wanted = options.num_random + SPARE_RANDOM if options.num_random else 0
    rng = np.random.default_rng(stable_hash("random negatives", *key))
    size = min(total, 2 * wanted)
    while True:
        found: dict[int, int] = {}
        for row in rng.choice(total, size=size, replace=False).tolist() if wanted else ():
            if len(found) < wanted and not reason(row):
                found.setdefault(text_key(row), row)
        if len(found) >= wanted or size == total:
            return np.array(list(found.values()), dtype=np.int64)
        size = min(total, 4 * size)  # too many are never negatives: draw more


def _random(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], taken: np.ndarray, lowest: np.float32, options: MineOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The rows and scores of the random negatives: the first that are not taken and that no margin and no max_score
    refuses. min_score is for ranked documents."""
    rows, scores, keys = drawn
    refuses = [mask for name, mask in options.refusals(scores, lowest).items() if name != "min_score"]
    passes = ~np.logical_or.reduce([np.isin(keys, taken), *refuses])
    places = np.flatnonzero(passes)[: options.num_random]
    return rows[places], scores[places]
