"""Refresh the candidates from which training lists are drawn, by the model that is being trained.

A refresh is a function of the weights and of (seed, step), the same on any number of ranks. Its result is a part of
every checkpoint that is saved while it is in use: a resumed run reads it, since the weights that made it are gone. If a
run stops before the first such checkpoint, its weights are those of the checkpoint, and the refresh is made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.hashing import stable_hash
from data.sampling.loader import ListLoader
from data.sampling.training_lists import TrainingLists
from engines.distributed.collectives import broadcast_object
from engines.distributed.process_group import barrier, is_main
from inference.runner import Runner
from trainers.options import TrainerConfig
from trainers.record import REFRESH_FOLDER
from trainers.refresh.rankings import Ranked, rescore_candidates, search_corpus
from trainers.refresh.stored import Refresh, copy_refresh, open_refresh, restore_refresh, write_refresh


class Refresher:
    """Makes, keeps and restores the refreshed candidates of all data sets of a run. Call every method on all ranks.

    An embedding model (layout "texts") searches the corpus or a sample of it; a reranker scores the first candidates of
    the first stage again. Queries without a relevant document keep the candidates of the first stage if the corpus is
    searched: nothing is known to be no negative of them.
    """

    def __init__(self, config: TrainerConfig, loader: ListLoader, folder: Path, *, seed: int):
        self.config, self.loader, self.folder = config, loader, folder / REFRESH_FOLDER
        self.sources = loader.lists.sources
        self.seed = seed
        self.in_use: Refresh | None = None

    def is_due(self, step: int) -> bool:
        """Whether candidates are to be refreshed after that step: at every multiple of `refresh_every`. A run that has
        passed one without a refresh, since it started from a checkpoint of other settings, makes it at once."""
        last = step - step % self.config.refresh_every
        refreshed = self.in_use.step if self.in_use is not None else 0
        return refreshed < last and step % self.config.updates_per_batch == 0

    def refresh(self, runner: Runner, *, step: int, batch: int) -> int:
        """Refresh the candidates with the weights after `step`, for the batches from `batch` on. Returns the number of
        queries."""
        drawn = self.loader.plan.drawn(batch)
        upcoming = self.loader.plan.upcoming(batch, drawn, self.config.refresh_queries)
        found = {name: self._rank(lists, upcoming[name], runner, step) for name, lists in self.sources.items()}
        folder = self.folder / f"step-{step:06d}"
        _on_main(lambda: write_refresh(folder, self.sources, found, drawn, step=step, batch=batch))
        self._use(folder)
        return sum(len(query_ids) for query_ids, _ in found.values())

    def restore(self, checkpoint: Path, step: int | None) -> None:
        """Use the refresh of that step, which the checkpoint holds; None: the candidates of the first stage."""
        if step is not None:
            folder = self.folder / f"step-{step:06d}"
            _on_main(lambda: restore_refresh(folder, checkpoint))
            self._use(folder)
            return
        self.in_use = None
        self.loader.plan.restart(0, {name: [] for name in self.sources})
        for lists in self.sources.values():
            lists.refresh(None)

    def copy_to(self, checkpoint: Path) -> list[Path]:
        """Put the refresh that is in use into a checkpoint. Returns the files that this rank has written. It may be
        called from another thread, and before the next refresh that must have ended."""
        if self.in_use is None or not is_main():
            return []
        return copy_refresh(self.folder / f"step-{self.in_use.step:06d}", checkpoint)

    def _use(self, folder: Path) -> None:
        self.in_use = refresh = open_refresh(folder, self.sources)
        self.loader.plan.restart(refresh.batch, {name: drawn.tolist() for name, drawn in refresh.drawn.items()})
        for name, lists in self.sources.items():
            lists.refresh(refresh.candidates[name])
        barrier()  # no rank reads an older one
        if is_main():
            for other in self.folder.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)

    def _rank(
        self, lists: TrainingLists, indices: Sequence[int], runner: Runner, step: int
    ) -> tuple[list[str], list[Ranked]]:
        """The queries that are refreshed, and the ranking of each."""
        query_ids = [lists.query_ids[index] for index in indices]
        depth, token_budget = self.config.refresh_depth, self.config.token_budget
        tokenizer: Any = lists.tokenizer
        if tokenizer.layout != "texts":
            return query_ids, rescore_candidates(lists, query_ids, runner, depth=depth, token_budget=token_budget)
        query_ids = [query for query in query_ids if lists.relevant(query)]
        if not query_ids:
            return [], []
        rows = self._sample_rows(lists, step)
        ranked = search_corpus(lists, query_ids, rows, runner, depth=depth, token_budget=token_budget)
        return query_ids, ranked

    def _sample_rows(self, lists: TrainingLists, step: int) -> Sequence[int]:
        """The rows of the documents that are searched, in their order: all, or a sample keyed by (seed, step)."""
        total, size = len(lists.documents), self.config.refresh_documents
        if size is None or size >= total:
            return range(total)
        rng = np.random.default_rng(stable_hash("refreshed documents", self.seed, step, lists.source))
        return np.sort(rng.choice(total, size=size, replace=False, shuffle=False)).tolist()


def _on_main(write: Callable[[], None]) -> None:
    """Write on rank 0, while the others wait. Raises OSError on every rank if it cannot be written."""
    failure = None
    if is_main():
        try:
            write()
        except OSError as error:
            failure = str(error)
    failure = broadcast_object(failure)
    if failure:
        raise OSError(
            f"the refreshed candidates could not be written ({failure}): free disk space or repair the disk, and the "
            "same command resumes"
        )
