"""Batches of candidate lists, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from data.batch import ListBatch, ListExample
from data.sampling.list_arrays import arrays_of, divide, lists_of
from data.sampling.loader import ListLoader
from engines.distributed.collectives import gather_arrays
from engines.distributed.process_group import rank, world_size


class Batches:
    """The batch of each step. Every rank tokenises its share of the lists, and all ranks get the whole batch but its
    tokens.

    `skipped`, in the methods: the numbers of batches that are left out, as if they were not in the data, so that later
    batches move forward. `before_workers` is called before the loader starts its processes.
    """

    def __init__(self, loader: ListLoader, steps_per_batch: int, before_workers: Callable[[], None]):
        self.loader = loader
        self.steps_per_batch = steps_per_batch
        self.before_workers = before_workers
        self.current: ListBatch | None = None
        self.wait_s = 0.0  # the time that the last call of `for_step` took
        self._shares: Iterator[list[ListExample]] = iter(())
        self._next_number: int | None = None  # the number of the next batch of `_shares`
        self._ahead: ListBatch | None = None  # loaded for a later step

    def number(self, step: int, skipped: Collection[int] = ()) -> int:
        """The number of a step's batch (steps count from 1, batches from 0)."""
        number = (step - 1) // self.steps_per_batch
        for skipped_number in sorted(skipped):
            number += skipped_number <= number
        return number

    def for_step(self, step: int, skipped: Collection[int] = ()) -> ListBatch:
        """Load the batch of a step. It becomes `current`."""
        started = time.perf_counter()
        number = self.number(step, skipped)
        if self.current is None or self.current.number != number:
            if self._ahead is None or self._ahead.number != number:
                if self._next_number != number:
                    self.before_workers()
                    self._shares, self._next_number = self.loader.iterate(number), number
                self._ahead = self._load_next()
            self.current, self._ahead = self._ahead, None
        self.wait_s = time.perf_counter() - started
        return self.current

    def ahead(self, step: int, skipped: Collection[int] = ()) -> ListBatch | None:
        """Load the batch of a later step, if it is the one that comes next; None if it is another, or `current`."""
        number = self.number(step, skipped)
        if self._next_number == number:
            self._ahead = self._load_next()
        return self._ahead if self._ahead is not None and self._ahead.number == number else None

    def _load_next(self) -> ListBatch:
        assert self._next_number is not None
        number, self._next_number = self._next_number, self._next_number + 1
        return gather_batch(number, next(self._shares))

    def restart(self) -> None:
        """Drop what was loaded in advance: the lists have changed."""
        self.close()
        self.current = None

    def close(self) -> None:
        """Stop the loader's processes."""
        self._shares, self._next_number, self._ahead = iter(()), None, None

    def upcoming(self, step: int, last_step: int, skipped: Collection[int], spare: int) -> range:
        """The numbers of all batches from one step to another, and of `spare` more that replace batches skipped
        meanwhile."""
        return range(self.number(step, skipped), self.number(last_step, skipped) + spare + 1)

    def read(self, numbers: range) -> Iterator[ListBatch]:
        """Load the batches of these numbers, without changing `current`."""
        shares = self.loader.iterate(numbers.start) if numbers else iter(())
        for number in numbers:
            yield gather_batch(number, next(shares))


def gather_batch(number: int, share: list[ListExample]) -> ListBatch:
    """Put the whole batch together from the shares of all ranks, in the order of its lists. Each rank keeps the tokens
    of its own share alone, and gets those that it runs by `inference.own_tokens.fetch_own_tokens`."""
    if world_size() == 1:
        return ListBatch(number, share)
    share = divide(share, rank())
    shares = [lists_of(arrays, holder) for holder, arrays in enumerate(gather_arrays(arrays_of(share), "lists"))]
    shares[rank()] = share
    size = sum(len(share) for share in shares)
    return ListBatch(number, [shares[i % len(shares)][i // len(shares)] for i in range(size)])
