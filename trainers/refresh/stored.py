"""Refreshed candidates on disk: memory-mapped arrays in the run directory, and the same files in every checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.collection import Candidates
from data.sampling.training_lists import TrainingLists
from data.store.lists import NAMES, StoredLists
from data.store.texts import rows_of
from engines.checkpoint.manifest import flush
from trainers.refresh.rankings import Ranked

META, PREFIX, DRAWN = "refresh.json", "refresh-", "drawn"
Sources = Mapping[str, TrainingLists]


@dataclass(frozen=True)
class Refresh:
    """A refresh as its folder holds it. `batch`: the first batch that is drawn from it; `drawn`: the queries that the
    batches before have drawn in their epoch, by data set."""

    step: int
    batch: int
    drawn: Mapping[str, np.ndarray]
    candidates: Mapping[str, Candidates]  # by data set


def write_refresh(
    folder: Path,
    sources: Sources,
    found: Mapping[str, tuple[Sequence[str], Sequence[Ranked]]],
    drawn: Mapping[str, Sequence[int]],
    *,
    step: int,
    batch: int,
) -> None:
    """Write what was `found` for the queries of each data set to a new `folder`, atomically. Call it on rank 0."""
    unfinished = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for number, (name, lists) in enumerate(sources.items()):
        query_ids, ranked = found[name]
        arrays = _as_arrays(lists, query_ids, ranked) | {DRAWN: np.array(drawn[name], dtype=np.int32)}
        for array, values in arrays.items():
            np.save(unfinished / f"{PREFIX}{number}-{array}.npy", values)
    sizes = {name: [len(lists.queries), len(lists.documents)] for name, lists in sources.items()}
    (unfinished / META).write_text(json.dumps({"step": step, "batch": batch, "sizes": sizes}))
    _publish(unfinished, folder)


def restore_refresh(folder: Path, checkpoint: Path) -> None:
    """Make the `folder` of a refresh from the files of a checkpoint that used it. Call it on rank 0."""
    unfinished = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    copy_refresh(checkpoint, unfinished)
    _publish(unfinished, folder)


def copy_refresh(folder: Path, target: Path) -> list[Path]:
    """Put the files of a refresh into another folder, as hard links if the file system has them."""
    copies = []
    for file in sorted(path for path in folder.iterdir() if path.name == META or path.name.startswith(PREFIX)):
        copies.append(target / file.name)
        try:
            os.link(file, copies[-1])
        except OSError:
            shutil.copyfile(file, copies[-1])
    return copies


def open_refresh(folder: Path, sources: Sources) -> Refresh:
    """Open a refresh. Raises ValueError if it belongs to other data."""
    meta = json.loads((folder / META).read_text())
    if meta["sizes"] != {name: [len(lists.queries), len(lists.documents)] for name, lists in sources.items()}:
        raise ValueError(
            f"{folder} holds refreshed candidates of other data: repeat the settings of data, or start from scratch "
            "with resume=none"
        )
    drawn, candidates = {}, {}
    for number, (name, lists) in enumerate(sources.items()):
        drawn[name] = np.load(folder / f"{PREFIX}{number}-{DRAWN}.npy")
        candidates[name] = StoredLists[list[tuple[str, float]]](
            folder, lists.queries, lists.documents, list, prefix=f"{PREFIX}{number}-"
        )
    return Refresh(meta["step"], meta["batch"], drawn, candidates)


def _as_arrays(lists: TrainingLists, query_ids: Sequence[str], ranked: Sequence[Ranked]) -> dict[str, np.ndarray]:
    """The arrays of `StoredLists` by name."""
    documents = [rows for rows, _ in ranked]
    values = [scores for _, scores in ranked]
    sizes = [len(rows) for rows in documents]
    arrays = (
        rows_of(lists.queries, list(query_ids)),
        np.cumsum(sizes, dtype=np.int64),
        np.concatenate([np.empty(0, dtype=np.uint32), *documents]),
        np.concatenate([np.empty(0, dtype=np.float32), *values]),
    )
    return dict(zip(NAMES, arrays, strict=True))


def _publish(unfinished: Path, folder: Path) -> None:
    """Rename a finished folder once its files are on disk, in the place of an older one of its name."""
    for file in unfinished.iterdir():
        flush(file)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    flush(folder.parent)
