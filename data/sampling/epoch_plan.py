"""The training lists of each batch: a function of the seed and the batch's number, the same on every rank."""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from math import ceil
from typing import Any, Protocol

import numpy as np

from data.hashing import stable_hash
from data.option_names import ROOT

logger = logging.getLogger(__name__)

Entry = tuple[int, set[int]]  # query index, hashes of the texts that only one list of a batch may have
Drawn = Mapping[str, Sequence[int]]  # data set -> query indices


class Plan(Protocol):
    """The plan of a run's batches.

    Which lists share a batch may depend on their documents. If lists are refreshed, the batches before that one cannot
    be planned again. So the queries that they have drawn are kept, and the rest of the epoch is planned from there.
    """

    @property
    def batches_per_epoch(self) -> int:
        """The batches of one pass over the training queries; in a mixture, those of one pass over each data set."""

    def batch(self, number: int) -> list[Any]:
        """The keys of all lists of that global batch. Calls in order are fast; otherwise the epoch is planned again."""

    def drawn(self, number: int) -> Drawn:
        """The queries that the batches before `number` have drawn in their epoch, by data set."""

    def restart(self, number: int, drawn: Drawn) -> None:
        """Plan from batch `number` on, after batches that have `drawn` these queries in its epoch. Those before it are
        not asked for any more."""

    def upcoming(self, number: int, drawn: Drawn, count: int | None) -> Drawn:
        """The next `count` queries (None: all) in the order of the epoch that `number` belongs to, by data set."""


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
        self.origin, self.drawn_before = 0, array("i")  # the batch that is planned from, and the queries drawn before
        self.drawn_since = array("i")  # the queries of the batches of this epoch up to `position`, from the origin on
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
        assert number >= self.origin, "the batches before a refresh are not planned again"
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch != self.epoch or position < self.position:
            self._begin(epoch)
        while True:
            batch, distinct = next(self.batches)
            self.position += 1
            if self.unique_texts is not None:
                self.drawn_since.extend(batch)
            if self.position > position:
                break
        if distinct < self.batch_size and not self.warned:
            self.warned = True
            logger.warning("%s: batch %d holds a text twice: too few lists have none in common", self.source, number)
        return [(epoch, index) for index in batch]

    def drawn(self, number: int) -> Drawn:
        epoch, position = divmod(number, self.batches_per_epoch)
        if position == 0:
            return {self.source: []}
        if self.unique_texts is None:
            return {self.source: self._order(epoch, "order")[: position * self.batch_size]}
        if number == self.origin:
            return {self.source: list(self.drawn_before)}
        if epoch != self.epoch or position > self.position:
            self.batch(number - 1)
        first = self._first_position(epoch)
        earlier = self.drawn_before if first else ()
        return {self.source: [*earlier, *self.drawn_since[: (position - first) * self.batch_size]]}

    def restart(self, number: int, drawn: Drawn) -> None:
        self.origin, self.drawn_before, self.epoch = number, array("i", drawn[self.source]), -1

    def upcoming(self, number: int, drawn: Drawn, count: int | None) -> Drawn:
        if count is None or count >= self.num_lists:
            return {self.source: range(self.num_lists)}
        epoch, past = number // self.batches_per_epoch, set(drawn[self.source])
        remaining = (index for index in self._order(epoch, "order") if index not in past)
        order = dict.fromkeys(chain(remaining, self._order(epoch + 1, "order")))
        return {self.source: sorted(islice(order, count))}

    def _begin(self, epoch: int) -> None:
        """Plan that epoch from its first batch on, or from the origin if that lies in it."""
        first = self._first_position(epoch)
        self.epoch, self.position, self.drawn_since = epoch, first, array("i")
        self.batches = self._plan(epoch, self.unique_texts, first, self.drawn_before if first else ())

    def _first_position(self, epoch: int) -> int:
        origin_epoch, position = divmod(self.origin, self.batches_per_epoch)
        return position if epoch == origin_epoch else 0

    def _distinct(self, unique_texts: UniqueTexts) -> int:
        """How many lists of the first batch share no text of that kind."""
        return next(self._plan(0, unique_texts))[1]

    def _plan(
        self, epoch: int, unique_texts: UniqueTexts | None, first: int = 0, drawn: Collection[int] = ()
    ) -> Iterator[tuple[list[int], int]]:
        """Yield the query indices of each batch, and the number of lists that share no text with another: from batch
        `first` of the epoch on, after batches that have `drawn` these queries."""

        def entry_of(index: int) -> Entry:
            return index, unique_texts.of_list(epoch, index) if unique_texts is not None else set()

        past = set(drawn)
        fresh = (index for index in self._order(epoch, "order") if index not in past)
        again = cycle(self._order(epoch, "again"))
        # By the text that they share with a batch: of each text at most one can join a batch.
        waiting: dict[int, deque[Entry]] = {}
        for _ in range(first, self.batches_per_epoch):
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

    @property
    def batches_per_epoch(self) -> int:
        return sum(plan.batches_per_epoch for plan in self.plans.values())

    def source(self, number: int) -> str:
        """The name of the data set of that batch."""
        place = np.searchsorted(self.bounds, stable_hash("source", self.seed, number) / 2**63, side="right")
        return self.names[min(int(place), len(self.names) - 1)]

    def batch(self, number: int) -> list[tuple[str, int, int]]:
        """The (source, epoch, query index) keys."""
        counts, name = self._counts_before(number), self.source(number)
        return [(name, *key) for key in self.plans[name].batch(counts[name])]

    def drawn(self, number: int) -> Drawn:
        counts = dict(self._counts_before(number))
        return {name: plan.drawn(counts[name])[name] for name, plan in self.plans.items()}

    def restart(self, number: int, drawn: Drawn) -> None:
        counts = dict(self._counts_before(number))
        for name, plan in self.plans.items():
            plan.restart(counts[name], drawn)

    def upcoming(self, number: int, drawn: Drawn, count: int | None) -> Drawn:
        """Each data set has its share of the `count` queries."""
        shares = np.diff(self.bounds, prepend=0.0).tolist()
        needed = {
            name: None if count is None else ceil(count * share) for name, share in zip(self.names, shares, strict=True)
        }
        counts = dict(self._counts_before(number))
        return {name: plan.upcoming(counts[name], drawn, needed[name])[name] for name, plan in self.plans.items()}

    def _counts_before(self, number: int) -> Mapping[str, int]:
        """The number of batches of each data set before batch `number`."""
        if number < self.number:
            self.number, self.counts = 0, dict.fromkeys(self.names, 0)
        while self.number < number:
            self.counts[self.source(self.number)] += 1
            self.number += 1
        return self.counts
