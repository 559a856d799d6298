"""The order of the training lists, a function of seed and batch number, and the workers that make them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.keys import stable_hash
from data.lists import TrainingLists
from data.rows import ListExample


class ListLoader:
    """Batches of `batch_size` lists over all ranks, numbered 0, 1, 2, ... over the whole run.

    Each epoch is a permutation keyed by (seed, epoch), cut into batches; the rest of the queries sits that epoch out.
    """

    def __init__(
        self, lists: TrainingLists, *, batch_size: int, seed: int, rank: int, world_size: int, workers: int
    ) -> None:
        if not 1 <= batch_size <= len(lists):
            raise ValueError(
                f"trainer.batch_size={batch_size} must be between 1 and the {len(lists)} training queries there are"
            )
        if workers < 0:
            raise ValueError(f"trainer.workers={workers} must be at least 0 (0: the training process makes the lists)")
        self.lists, self.batch_size, self.seed = lists, batch_size, seed
        self.rank, self.world_size, self.workers = rank, world_size, workers
        self.batches_per_epoch = len(lists) // batch_size

    def iterate(self, first_batch: int) -> Iterator[list[ListExample]]:
        """This rank's lists of batch `first_batch` and of all that follow, without end; closing it stops workers."""
        loader = DataLoader(
            self.lists,
            batch_sampler=self._shares(first_batch),
            num_workers=self.workers,
            collate_fn=_as_they_are,
            generator=torch.Generator(),  # else starting the workers would draw from the global generator
        )
        with _tokenizers_parallelism_off(when=self.workers > 0):
            batches = iter(loader)
        yield from batches

    def _shares(self, number: int) -> Iterator[list[tuple[int, int]]]:
        """The (epoch, query index) keys of this rank, batch by batch: every `world_size`-th of a batch from `rank`."""
        order, ordered_epoch = np.empty(0, dtype=np.int64), -1
        while True:
            epoch, position = divmod(number, self.batches_per_epoch)
            if epoch != ordered_epoch:
                rng = np.random.default_rng(stable_hash("order", self.seed, epoch))
                order, ordered_epoch = rng.permutation(len(self.lists)), epoch
            batch = order[position * self.batch_size : (position + 1) * self.batch_size].tolist()
            yield [(epoch, index) for index in batch[self.rank :: self.world_size]]
            number += 1


def _as_they_are(examples: list[ListExample]) -> list[ListExample]:
    return examples


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
