"""The training lists of each batch: a function of the seed and the batch's number, the same on every rank."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Protocol

import numpy as np

from data.hashing import stable_hash
from data.option_names import ROOT

logger = logging.getLogger(__name__)

Entry = tuple[int, set[int]]  # query index, hashes of the texts that only one list of a batch may have


class Plan(Protocol):
    """The plan of a run's batches."""

    def batch(self, number: int) -> list[Any]:
        """The keys of all lists of that global batch. Calls in order are fast; otherwise the epoch is planned again."""


@dataclass(frozen=True)
class UniqueTexts:
    """The texts that only one list of a batch may have, because the loss uses other lists' documents as negatives."""

    of_list: Callable[[int, int], set[int]]  # (epoch, query index) -> the hashes of that list's texts
    kind: str  # in messages: "query or document"
    fewer: UniqueTexts | None = None  # those without `data.lists.no_duplicates`, if that is set


class EpochPlan:
    """Divides each epoch, a permutation keyed by (seed, epoch), into batches. Queries that do not fill a batch are left
    out of the epoch.

    With `unique_texts`, a list whose text is already in the batch waits for a later batch of the epoch. If at the end
    of the epoch the waiting lists have too much in common, lists used before fill the batches. `source` names the data,
    `node` its options.
    """

    def __init__(
        self,
        num_lists: int,
        *,
        batch_size: int,
        seed: int,
        source: str,
        unique_texts: UniqueTexts | None = None,
        node: str = ROOT,
    ) -> None:
        if not 1 <= batch_size <= num_lists:
            raise ValueError(
                f"trainer.batch_size={batch_size} must be between 1 and {num_lists}, the number of training queries"
                f" (data {source})"
            )
        self.num_lists, self.batch_size, self.seed, self.source = num_lists, batch_size, seed, source
        self.unique_texts = unique_texts
        self.warned = False
        self.batches_per_epoch = num_lists // batch_size
        self.epoch, self.position = -1, 0
        self.batches: Iterator[tuple[list[int], int]] = iter(())
        if unique_texts is not None and (distinct := self._distinct(unique_texts)) < batch_size:
            fewer = unique_texts.fewer
            helps = fewer is not None and self._distinct(fewer) >= batch_size
            raise ValueError(
                f"trainer.batch_size={batch_size} is too large for data {source}: its lists have so much in "
                f"common that only {distinct} without a common {unique_texts.kind} were found; set "
                f"{node}.in_batch=false (each list is compared with its own documents only)"
                f"{f' or {node}.lists.no_duplicates=false' * helps}, or lower trainer.batch_size to {distinct}"
            )

    def batch(self, number: int) -> list[tuple[int, int]]:
        """The (epoch, query index) keys."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch != self.epoch or position < self.position:
            self.epoch, self.position, self.batches = epoch, 0, self._plan(epoch, self.unique_texts)
        while True:
            batch, distinct = next(self.batches)
            self.position += 1
            if self.position > position:
                break
        if distinct < self.batch_size and not self.warned:
            self.warned = True
            logger.warning("%s: batch %d holds a text twice: too few lists have none in common", self.source, number)
        return [(epoch, index) for index in batch]

    def _distinct(self, unique_texts: UniqueTexts) -> int:
        """How many lists of the first batch share no text of that kind."""
        return next(self._plan(0, unique_texts))[1]

    def _plan(self, epoch: int, unique_texts: UniqueTexts | None) -> Iterator[tuple[list[int], int]]:
        """Yield the query indices of each batch, and the number of lists that share no text with another."""

        def entry_of(index: int) -> Entry:
            return index, unique_texts.of_list(epoch, index) if unique_texts is not None else set()

        fresh, again = iter(self._order(epoch, "order")), cycle(self._order(epoch, "again"))
        # By the text that they share with a batch: of each text at most one can join a batch.
        waiting: dict[int, deque[Entry]] = {}
        for _ in range(self.batches_per_epoch):
            batch = Batch(self.batch_size)
            for text in list(waiting):
                if not batch.full and batch.add(waiting[text][0]) is None:
                    waiting[text].popleft()
                    if not waiting[text]:
                        del waiting[text]
            while not batch.full and (index := next(fresh, None)) is not None:
                entry = entry_of(index)
                common = batch.add(entry)
                if common is not None:
                    waiting.setdefault(common, deque()).append(entry)
            for index in islice(again, 0 if batch.full else self.num_lists):
                batch.add(entry_of(index))
                if batch.full:
                    break
            distinct = len(batch.indices)
            others = (index for index in islice(again, self.num_lists) if index not in batch.indices)
            yield batch.indices + list(islice(others, self.batch_size - distinct)), distinct

    def _order(self, epoch: int, name: str) -> list[int]:
        return np.random.default_rng(stable_hash(name, self.seed, epoch)).permutation(self.num_lists).tolist()


class Batch:
    """A batch of at most `size` lists without a common text."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.indices: list[int] = []
        self.taken: set[int] = set()

    @property
    def full(self) -> bool:
        return len(self.indices) == self.size

    def add(self, entry: Entry) -> int | None:
        """Add the list, or return a text that another list of the batch has."""
        index, own = entry
        common = own & self.taken
        if common:
            return min(common)
        self.indices.append(index)
        self.taken |= own
        return None


class MixturePlan:
    """Takes each batch from one data set, sampled by (seed, number) with the given shares: the next batch of its
    plan."""

    def __init__(self, plans: Mapping[str, EpochPlan], shares: Mapping[str, float], *, seed: int) -> None:
        self.plans, self.seed = plans, seed
        self.names, self.bounds = list(shares), np.cumsum(list(shares.values())) / sum(shares.values())
        self.number, self.counts = 0, dict.fromkeys(self.names, 0)  # batches of each source before `number`

    def source(self, number: int) -> str:
        """The name of the data set of that batch."""
        place = np.searchsorted(self.bounds, stable_hash("source", self.seed, number) / 2**63, side="right")
        return self.names[min(int(place), len(self.names) - 1)]

    def batch(self, number: int) -> list[tuple[str, int, int]]:
        """The (source, epoch, query index) keys."""
        if number < self.number:
            self.number, self.counts = 0, dict.fromkeys(self.names, 0)
        while self.number < number:
            self.counts[self.source(self.number)] += 1
            self.number += 1
        name = self.source(number)
        return [(name, *key) for key in self.plans[name].batch(self.counts[name])]
