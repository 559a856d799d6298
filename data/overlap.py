"""The check that no training query is a held-out one.

Every way on which training data meet the queries of an evaluation goes through this module: the splits of a data set,
the sources of a mixture, a stage's own data. Queries are the same if their texts are equal (`normalised`) or, within
one data set, if their ids are. Ids of different data sets mean nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from data.collection import SPLITS, Collection, content_hash, normalised
from data.views import without

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class HeldOutQueries:
    """The queries that a data set evaluates: the split of each, by normalised text and by id."""

    owner: str
    by_text: Mapping[str, str]
    by_id: Mapping[str, str]


def held_out_queries(data: Collection, owner: str = "") -> HeldOutQueries:
    """The queries of dev and test, to compare with those of another data set: by text alone. `owner` names them in
    messages; default: the name of the data."""
    by_text = {normalised(text): name for name in ("dev", "test") if name in data.splits for text in _texts(data, name)}
    return HeldOutQueries(owner or data.name, by_text, {})


def without_held_out(collection: Collection, held_out: HeldOutQueries, where: str, remedy: str) -> Collection:
    """`collection` without the training queries that `held_out` has; the same object if there are none.

    One warning says how many are dropped, and from what. Raises ValueError, which starts with `where` and ends with
    `remedy`, if none is left.
    """
    train = collection.split("train")
    found = find_overlap(train.queries, held_out)
    if not found:
        return collection
    what = f"{_described('train', len(train.queries), found.values())} of {held_out.owner}"
    if len(found) == len(train.queries):
        raise ValueError(f"{where}: {what}, so none is left to train on; {remedy}")
    logger.warning("%s: %s: dropped", where, what)
    split = train.without(found)
    fingerprint = content_hash([collection.fingerprint, *split.queries])
    return replace(collection, splits={**collection.splits, "train": split}, fingerprint=fingerprint)


def disjoint_splits(
    name: str, texts: Mapping[str, Mapping[str, str]], splits: Mapping[str, Mapping[str, Entry]]
) -> tuple[dict[str, Mapping[str, Entry]], dict[str, str]]:
    """Drop queries of train that are also in dev or test, and queries of dev that are also in test.

    `texts` and `splits` are split -> query id -> the text, and what is kept of the query. Returns the splits in the
    order of SPLITS, and the reason for each one that is left without a query. One warning for each split says how many
    are dropped.
    """
    by_text: dict[str, str] = {}
    by_id: dict[str, str] = {}
    kept: dict[str, Mapping[str, Entry]] = {}
    emptied: dict[str, str] = {}
    for split in [split for split in reversed(SPLITS) if split in splits]:
        found = find_overlap(texts[split], HeldOutQueries(name, by_text, by_id))
        kept[split] = without(splits[split], found)
        if found:
            what = _described(split, len(texts[split]), found.values())
            logger.warning("%s: %s: dropped", name, what)
            if not kept[split]:
                emptied[split] = f"{what}, so none is left; give {split} other queries, or take these out of there"
        if split == SPLITS[0]:
            break  # no split is compared with train
        for query, text in texts[split].items():
            by_text.setdefault(normalised(text), split)
            by_id.setdefault(query, split)
    return {split: kept[split] for split in SPLITS if kept.get(split)}, emptied


def find_overlap(queries: Mapping[str, str], held_out: HeldOutQueries) -> dict[str, str]:
    """The queries {id: text} that `held_out` has, with the split that has them."""
    by_text, by_id = held_out.by_text, held_out.by_id
    if not by_text and not by_id:
        return {}
    found = ((query, by_id.get(query) or by_text.get(normalised(text))) for query, text in queries.items())
    return {query: split for query, split in found if split is not None}


def shared_queries(
    sets: Mapping[str, Mapping[str, str]], others: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, int]]:
    """How many queries of each of the `sets` (id -> text) the `others` (texts) have too, by text alone: set -> other ->
    number. Each of the others is read once."""
    texts = {name: [normalised(text) for text in queries.values()] for name, queries in sets.items()}
    known = set().union(*texts.values())
    shared = {name: known.intersection(map(normalised, queries)) for name, queries in others.items()}
    return {
        name: {other: sum(text in found for text in own) for other, found in shared.items()}
        for name, own in texts.items()
    }


def _texts(data: Collection, split: str) -> Iterable[str]:
    return data.splits[split].queries.values()


def _described(split: str, total: int, places: Iterable[str]) -> str:
    """Such as "3 of 10 train queries are also in test (2) or dev (1)"."""
    counts = Counter(places)
    number = counts.total()
    names = [f"{name} ({count})" if len(counts) > 1 else name for name, count in sorted(counts.items(), reverse=True)]
    amount = f"all {total}" if number == total and total > 1 else f"{number} of {total}"
    return f"{amount} {split} queries {'is' if number == 1 else 'are'} also in {' or '.join(names)}"
