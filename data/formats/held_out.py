"""Choose the queries of a file that are held out, by a hash of their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np

from data.collection import normalised
from data.formats.list_parts import Lists
from data.hashing import among, stable_hash

# What is known of a query without its list: 16 bytes. `key` orders the texts of queries; equal texts share it.
FACTS = np.dtype([("ranked", "?"), ("labelled", "?"), ("positive", "?"), ("size", "i4"), ("key", "i8")])
MIX = np.uint64(0x9E3779B97F4A7C15)  # an odd number: a pair of keys becomes one number


def evaluated_queries(lists: Lists, degrees: bool = False) -> tuple[list[str], list[str]]:
    """The queries that can be evaluated, and, of pairs, those that only a correlation or average precision needs:
    none of their documents is relevant. If labels are `degrees`, all that have labels can be evaluated."""
    evaluated, beside = _evaluated(_facts(lists), degrees)
    return list(compress(lists, evaluated.tobytes())), list(compress(lists, beside.tobytes()))


def hold_out(
    lists: Lists, documents: Mapping[str, str], shares: Mapping[str, float], limit: int, degrees: bool = False
) -> dict[str, list[str]]:
    """Hold out queries that can be evaluated, those with the lowest hashes of texts, at most `limit` per split. Returns
    the query ids of each split.

    Queries of equal text stay together. Each held-out split gets at least one query if there are more queries than
    splits. A correlation needs two labels: of `degrees` a split gets at least two queries, one with another label if
    there is one; of other pairs, queries without a relevant document are held out beside those that have one, in the
    same proportion.
    """
    facts = _facts(lists)
    evaluated, beside = map(np.flatnonzero, _evaluated(facts, degrees))
    keys = _mirrored(lists, documents, facts) if degrees or len(beside) else facts["key"]
    smallest = 2 if degrees else 1
    ordered = np.unique(keys[evaluated])
    left = ordered if len(ordered) > smallest * len(shares) else ordered[:0]
    left_beside = np.setdiff1d(keys[beside], ordered)
    num_beside = len(left_beside)
    chosen: dict[str, list[int]] = {}
    for name, share in shares.items():
        size = min(max(smallest, round(share * len(ordered))), limit, len(left)) if share > 0 else 0
        if not size:
            continue
        more = max(1, round(size * num_beside / len(ordered)))
        left = _second_label_first(left, size, lists, keys, evaluated) if degrees else left
        chosen[name] = [*left[:size].tolist(), *left_beside[:more].tolist()]
        left, left_beside = left[size:], left_beside[more:]
    members = _members([key for found in chosen.values() for key in found], keys, (evaluated, beside), lists)
    return {name: [query_id for key in found for query_id in members[key]] for name, found in chosen.items()}


def _facts(lists: Lists) -> np.ndarray:
    rows = (
        (entry.can_be_evaluated, entry.labelled, entry.has_positive, len(entry.labels), _key(entry.query))
        for entry in lists.values()
    )
    return np.fromiter(rows, dtype=FACTS, count=len(lists))


def _key(text: str) -> int:
    return stable_hash("held out", normalised(text))


def _evaluated(facts: np.ndarray, degrees: bool) -> tuple[np.ndarray, np.ndarray]:
    """Whether each query can be evaluated, and whether it is held out beside those that can."""
    labelled, none = facts["labelled"], np.zeros(len(facts), dtype=bool)
    if degrees:
        return labelled | facts["ranked"], none
    sizes = facts["size"][labelled]
    are_pairs = (sizes == 1).sum() * 2 >= sizes.sum() > 0  # as in data.degrees
    return facts["ranked"], labelled & ~facts["positive"] if are_pairs else none


def _members(
    chosen: Sequence[int], keys: np.ndarray, positions: Sequence[np.ndarray], lists: Lists
) -> dict[int, list[str]]:
    """The queries of each chosen text."""
    wanted = np.array(sorted(chosen), dtype=np.int64)
    found = np.concatenate([part[among(keys[part], wanted)] for part in positions])
    is_found = np.zeros(len(keys), dtype=bool)
    is_found[found] = True
    names = dict(zip(np.flatnonzero(is_found).tolist(), compress(lists, is_found.tobytes()), strict=True))
    members: dict[int, list[str]] = {key: [] for key in chosen}
    for position in found.tolist():
        members[int(keys[position])].append(names[position])
    return members


def _second_label_first(
    texts: np.ndarray, size: int, lists: Lists, keys: np.ndarray, evaluated: np.ndarray
) -> np.ndarray:
    """The texts, with the first that brings another label moved into the first `size` if those have one label only."""
    names = list(lists)
    order = evaluated[np.argsort(keys[evaluated], kind="stable")]
    ordered = keys[order]

    def labels(text: int) -> set[float]:
        first, last = np.searchsorted(ordered, text), np.searchsorted(ordered, text, side="right")
        return {label for position in order[first:last].tolist() for label in lists[names[position]].labels.values()}

    levels = {label for text in texts[:size] for label in labels(text)}
    if len(levels) > 1:
        return texts
    other = next((place for place in range(size, len(texts)) if labels(texts[place]) - levels), None)
    if other is None:
        return texts
    return np.concatenate([texts[: size - 1], texts[[other]], np.delete(texts[size - 1 :], other - size + 1)])


def _mirrored(lists: Lists, documents: Mapping[str, str], facts: np.ndarray) -> np.ndarray:
    """The keys by which queries are held out. Two queries that are each other's document share one, that of the first
    text of all that are so connected, so that one split gets both."""
    keys = facts["key"].copy()
    listed = (_key(documents[document]) for entry in lists.values() for document in entry.labels)
    others = np.fromiter(listed, dtype=np.int64, count=int(facts["size"].sum()))
    owners = np.repeat(keys, facts["size"])
    forward, backward = (
        first.view(np.uint64) * MIX ^ last.view(np.uint64) for first, last in ((owners, others), (others, owners))
    )
    both = among(backward, np.unique(forward))
    pairs = set(zip(owners[both].tolist(), others[both].tolist(), strict=True))
    parent = {key: key for key, _ in pairs}

    def root(key: int) -> int:
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    for query, document in pairs:
        if (document, query) in pairs:
            parent[root(query)] = root(document)
    if not parent:
        return keys
    connected = np.flatnonzero(among(keys, np.array(sorted(parent), dtype=np.int64)))
    firsts: dict[int, str] = {}
    is_connected = np.zeros(len(keys), dtype=bool)
    is_connected[connected] = True
    entries = compress(lists.values(), is_connected.tobytes())
    for position, entry in zip(connected.tolist(), entries, strict=True):
        own, text = root(int(keys[position])), normalised(entry.query)
        firsts[own] = min(firsts.get(own, text), text)
    for position in connected.tolist():
        keys[position] = stable_hash("held out", firsts[root(int(facts["key"][position]))])
    return keys
