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
    """Training lists by key."""

    def __getitem__(self, key: Any) -> ListExample: ...


class ListLoader:
    """Batches of training lists, numbered 0, 1, 2, ... over the whole run.

    `plan` says which keys of `lists` make a global batch, the same on every rank; each rank tokenises its share.
    """

    def __init__(self, lists: ListSource, plan: Plan, *, rank: int, world_size: int, workers: int) -> None:
        if workers < 0:
            raise ValueError(f"trainer.workers={workers} must be at least 0 (0: the training process makes the lists)")
        self.lists, self.plan = lists, plan
        self.rank, self.world_size, self.workers = rank, world_size, workers

    def iterate(self, first_batch: int) -> Iterator[list[ListExample]]:
        """This rank's lists of batch `first_batch` and of all that follow, without end; closing it stops workers."""
        loader = DataLoader(
            cast(Dataset, self.lists),
            batch_sampler=self._shares(first_batch),
            num_workers=self.workers,
            collate_fn=_unchanged,
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


def _unchanged(examples: list[ListExample]) -> list[ListExample]:
    return examples


def _start_worker(number: int) -> None:
    """Ignore the signals that are meant for the rank: it needs its workers until it has stopped, and then ends them.

    If the rank is killed, the kernel (Linux) kills them with it: they would wait for ever to hand on their last lists.
    """
    for ignored in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@atexit.register
def _end_workers() -> None:
    """Kill the workers that are left when the process ends: they ignore the signal by which multiprocessing stops
    them, and it would wait for them for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def _tokenizers_parallelism_off(when: bool) -> Iterator[None]:
    """Start workers whose tokenizers use no threads of their own: they inherit the environment of that moment."""
    before = dict(os.environ)
    if when:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM", None)
        os.environ.update(before)
