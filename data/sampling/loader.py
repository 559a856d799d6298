"""The data loader: worker processes that make the training lists, batch by batch."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset

from data.batch import ListExample
from data.pool import end_with_parent
from data.sampling.epoch_plan import Plan


class ListSource(Protocol):
    """A source of training lists by key."""

    @property
    def sources(self) -> Mapping[str, Any]:
        """The `TrainingLists` of each data set by name."""

    def __getitem__(self, key: Any) -> ListExample: ...


class ListLoader:
    """Batches of training lists, numbered 0, 1, 2, ... over the whole run.

    `plan` gives the keys of each global batch, the same on every rank; each rank tokenises its share.
    """

    def __init__(self, lists: ListSource, plan: Plan, *, rank: int, world_size: int, workers: int) -> None:
        if workers < 0:
            raise ValueError(f"trainer.workers={workers} must be at least 0 (0: the training process makes the lists)")
        self.lists, self.plan = lists, plan
        self.rank, self.world_size, self.workers = rank, world_size, workers

    def iterate(self, first_batch: int) -> Iterator[list[ListExample]]:
        """Yield this rank's lists of batch `first_batch` and of all that follow. Closing the iterator stops the
        workers."""
        loader = DataLoader(
            cast(Dataset, self.lists),
            batch_sampler=self._shares(first_batch),
            num_workers=self.workers,
            collate_fn=_identity,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # otherwise starting the workers would advance the global generator
        )
        with _tokenizers_parallelism_off(when=self.workers > 0):
            batches = iter(loader)
        yield from batches

    def _shares(self, number: int) -> Iterator[list[Any]]:
        """Yield this rank's keys of each batch: every `world_size`-th from `rank`."""
        while True:
            yield self.plan.batch(number)[self.rank :: self.world_size]
            number += 1


def _identity(examples: list[ListExample]) -> list[ListExample]:
    return examples


def _start_worker(number: int) -> None:
    """Ignore the signals that are meant for the rank, which needs its workers until it has stopped and then ends them.

    If the rank is killed, the kernel (Linux) kills the workers too: otherwise they would wait forever to deliver lists.
    """
    for ignored in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)
    end_with_parent()


@atexit.register
def _end_workers() -> None:
    """Kill the remaining workers when the process ends. They ignore the signal by which multiprocessing stops them, so
    it would wait forever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def _tokenizers_parallelism_off(when: bool) -> Iterator[None]:
    """Set TOKENIZERS_PARALLELISM=false while workers start and inherit the environment, so that tokenizers use no
    threads."""
    earlier = dict(os.environ)
    if when:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM", None)
        os.environ.update(earlier)
