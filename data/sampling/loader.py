"""The workers that make the training lists, batch by batch."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset

from data.batch import ListExample
from data.sampling.epoch_plan import Plan

PR_SET_PDEATHSIG = 1  # sys/prctl.h


class ListSource(Protocol):
    """A data set of training lists, or several of them, with a plan of its batches."""

    def __getitem__(self, key: Any) -> ListExample: ...

    def plan(self, *, batch_size: int, seed: int, in_batch_negatives: bool) -> Plan:
        """Which keys of `self` make batch 0, 1, 2, ..."""


class ListLoader:
    """Batches of `batch_size` lists over all ranks, numbered 0, 1, 2, ... over the whole run.

    The plan is made globally, a function of (seed, number) alone; each rank tokenises its share. With
    `in_batch_negatives` the loss compares the lists of a batch, so that no two of them may hold the same query or
    relevant document (`data.lists.no_duplicates`: or any document).
    """

    def __init__(
        self,
        lists: ListSource,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        workers: int,
        in_batch_negatives: bool = False,
    ) -> None:
        if workers < 0:
            raise ValueError(f"trainer.workers={workers} must be at least 0 (0: the training process makes the lists)")
        self.lists, self.rank, self.world_size, self.workers = lists, rank, world_size, workers
        self.plan = lists.plan(batch_size=batch_size, seed=seed, in_batch_negatives=in_batch_negatives)

    def iterate(self, first_batch: int) -> Iterator[list[ListExample]]:
        """This rank's lists of batch `first_batch` and of all that follow, without end; closing it stops workers."""
        loader = DataLoader(
            cast(Dataset, self.lists),
            batch_sampler=self._shares(first_batch),
            num_workers=self.workers,
            collate_fn=_as_they_are,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else starting the workers would draw from the global generator
        )
        with _tokenizers_parallelism_off(when=self.workers > 0):
            batches = iter(loader)
        yield from batches

    def _shares(self, number: int) -> Iterator[list[Any]]:
        """The keys of this rank, batch by batch: every `world_size`-th of a batch from `rank`."""
        while True:
            yield self.plan.batch(number)[self.rank :: self.world_size]
            number += 1


def _as_they_are(examples: list[ListExample]) -> list[ListExample]:
    return examples


def _start_worker(number: int) -> None:
    """Signals are for the rank: it needs its workers until it has stopped, and then ends them itself. Where the rank is
    killed, the kernel (Linux) kills them with it: they would wait for ever for somebody to take their last lists."""
    for ignored in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@atexit.register
def _end_workers() -> None:
    """Kill the workers that are left when the process ends: they ignore the signal by which multiprocessing would stop
    them, and it would wait for them for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def _tokenizers_parallelism_off(when: bool) -> Iterator[None]:
    """Workers inherit the environment of the moment they start; their tokenizers' own threads would only compete."""
    before = dict(os.environ)
    if when:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM", None)
        os.environ.update(before)
