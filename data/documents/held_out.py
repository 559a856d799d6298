"""Which pairs become queries of which split: documents are held out whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.collection import SPLITS, text_key
from data.documents.pairs import Pair
from data.hashing import stable_hash

TWICE, OVER = "asked of several chunks", "over the limit of its split"


@dataclass(frozen=True)
class SplitOptions:
    """The shares of documents that are held out, and how many queries each split has at most (None: all)."""

    dev_fraction: float
    test_fraction: float
    limits: Mapping[str, int | None]


class PairLedger:
    """What is known of all pairs while documents are read: 24 bytes of numbers a pair, not their texts."""

    def __init__(self, kinds: Sequence[str], seed: int) -> None:
        self.kinds, self._seed = kinds, seed
        self.dropped: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        self._keys: list[int] = []  # of the queries
        self._documents: list[int] = []
        self._kinds: list[int] = []
        self._hashes: list[int] = []  # of the names of documents

    def begin_document(self, name: str) -> None:
        """Go on to the document with that id."""
        self._hashes.append(stable_hash("document", self._seed, name))

    def drop(self, pair: Pair, reason: str = "") -> None:
        """Count a pair that is none."""
        self.dropped[pair.kind][reason or pair.dropped] += 1

    def add(self, pair: Pair) -> None:
        """Count a pair of the document that was begun last."""
        self._keys.append(text_key(pair.query))
        self._documents.append(len(self._hashes) - 1)
        self._kinds.append(self.kinds.index(pair.kind))

    def splits(self, options: SplitOptions) -> tuple[list[str], dict[str, int]]:
        """The split of each pair that was added ("" for one that is dropped), and the number of documents by split.

        A query that is asked of several chunks is dropped: which one answers it cannot be told. Documents that are left
        with a pair are divided in the order of a hash of their id and the seed; of a split that has more queries
        than its limit those with the lowest hashes stay.

        Raises ValueError if there are fewer documents with pairs than splits.
        """
        times = Counter(self._keys)
        unique = [times[key] == 1 for key in self._keys]
        asked = sorted({number for number, is_own in zip(self._documents, unique, strict=True) if is_own})
        split_of = _divide(asked, self._hashes, options)
        found = [split_of[number] if is_own else "" for number, is_own in zip(self._documents, unique, strict=True)]
        for kind, is_own in zip(self._kinds, unique, strict=True):
            if not is_own:
                self.dropped[self.kinds[kind]][TWICE] += 1
        for split in SPLITS:
            self._limit(split, options.limits.get(split), found)
        return found, dict(Counter(split_of.values()))

    def _limit(self, split: str, limit: int | None, found: list[str]) -> None:
        places = [place for place, own in enumerate(found) if own == split]
        if limit is None or len(places) <= limit:
            return
        places.sort(key=lambda place: stable_hash("query", self._seed, self._keys[place]))
        for place in places[limit:]:
            found[place] = ""
            self.dropped[self.kinds[self._kinds[place]]][OVER] += 1

    def counts(self, found: Sequence[str]) -> dict[str, dict[str, object]]:
        """What each kind gave by split, and what was dropped by reason."""
        given = {kind: Counter[str]() for kind in self.kinds}
        for kind, split in zip(self._kinds, found, strict=True):
            if split:
                given[self.kinds[kind]][split] += 1
        return {
            kind: {
                "given": {split: given[kind][split] for split in SPLITS if given[kind][split]},
                "dropped": dict(self.dropped[kind].most_common()),
            }
            for kind in self.kinds
        }


def _divide(documents: Sequence[int], hashes: Sequence[int], options: SplitOptions) -> dict[int, str]:
    """The split of each document: test and dev get their shares, at least one each, and train the others."""
    shares = {"test": options.test_fraction, "dev": options.dev_fraction}
    sizes = {split: max(1, round(share * len(documents))) for split, share in shares.items() if share > 0}
    if len(documents) <= sum(sizes.values()):
        raise ValueError(
            f"{len(documents)} {'document has' if len(documents) == 1 else 'documents have'} pairs, and train and "
            f"{' and '.join(sizes)} need one each at least: divide your text among more files, lower "
            "data.pairs.min_words, or leave out no kind of pair"
        )
    order = sorted(documents, key=lambda number: hashes[number])
    split_of = dict.fromkeys(documents, "train")
    start = 0
    for split, size in sizes.items():
        split_of.update(dict.fromkeys(order[start : start + size], split))
        start += size
    return split_of
