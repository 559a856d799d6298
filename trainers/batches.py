"""The batch of every step, with those left out that gave no finite gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from data.batch import ListBatch, ListExample
from data.sampling.loader import ListLoader
from engines.distributed.collectives import gather_objects


class Batches:
    """Which batch a step trains on, and its lists: every rank tokenises its share, all ranks get the whole.

    `skipped_batches`: numbers of batches that are left out; the next ones move up, as if these were not in the data.
    `before_workers` is called before the loader starts its processes.
    """

    def __init__(self, loader: ListLoader, steps_per_batch: int, before_workers: Callable[[], None]):
        self.loader = loader
        self.steps_per_batch = steps_per_batch
        self.before_workers = before_workers
        self.skipped_batches: list[int] = []
        self.current: ListBatch | None = None
        self._shares: Iterator[list[ListExample]] = iter(())
        self._coming: int | None = None  # the number of the batch that `_shares` gives next

    def number(self, step: int) -> int:
        """That of the step's batch (steps count from 1)."""
        number = (step - 1) // self.steps_per_batch
        for passed in sorted(self.skipped_batches):
            number += passed <= number
        return number

    def of(self, step: int) -> ListBatch:
        number = self.number(step)
        if self.current is None or self.current.number != number:
            if self._coming != number:
                self.before_workers()
                self._shares = self.loader.iterate(number)
            self.current = gather_batch(number, next(self._shares))
            self._coming = number + 1
        return self.current

    def skip_batch(self) -> None:
        """Leave the current batch out."""
        assert self.current is not None
        self.skipped_batches = sorted({*self.skipped_batches, self.current.number})

    def close(self) -> None:
        """Stop the loader's processes."""
        self._shares, self._coming = iter(()), None

    def coming(self, step: int, last_step: int, spare: int) -> range:
        """Numbers of all batches from that step's to the last one's, and `spare` more that may take others' places."""
        return range(self.number(step), self.number(last_step) + spare + 1)

    def read(self, numbers: range) -> Iterator[ListBatch]:
        """The batches of these numbers, apart from the training's."""
        shares = self.loader.iterate(numbers.start) if numbers else iter(())
        for number in numbers:
            yield gather_batch(number, next(shares))


def gather_batch(number: int, share: list[ListExample]) -> ListBatch:
    """The whole batch from the ranks' shares, in its own order."""
    shares = gather_objects(share)
    size = sum(len(share) for share in shares)
    return ListBatch(number, [shares[i % len(shares)][i // len(shares)] for i in range(size)])
