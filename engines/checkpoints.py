"""Checkpoints on disk: whole or not there at all."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.collectives import broadcast_object
from engines.process_group import barrier, is_main

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"


class CheckpointStore:
    """`root`/step-NNNNNN folders, of which the last `keep` and the best stay.

    A checkpoint is written to a hidden folder, flushed to disk and renamed, so that a folder named step-NNNNNN is
    always complete. `root`/latest and `root`/best are text files with the name of a folder. All ranks make every call.
    """

    def __init__(self, root: Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"trainer.keep_checkpoints must be at least 1, got {keep}")
        self.root = root
        self.keep = keep

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """Let all ranks `write` into a new folder, add `state` (JSON types), make it the latest, drop old ones."""
        folder = self.root / _name(step)
        unfinished = self.root / f".tmp-{folder.name}"
        if is_main():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        barrier()
        write(unfinished)
        barrier()
        if is_main():
            (unfinished / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
            _flush(unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
            self._point("latest", folder.name)
            self._drop_old()
        barrier()
        return folder

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """`newest` of rank 0, on every rank."""
        return broadcast_object(self.newest() if is_main() else None)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its state, as this rank sees them; None where there is none."""
        for folder in reversed(self._folders()):
            try:
                return folder, json.loads((folder / STATE_FILE).read_text())
            except json.JSONDecodeError:
                logger.warning("%s is broken (%s): the checkpoint before it is used", folder, STATE_FILE)
        return None

    def mark_best(self, step: int) -> None:
        """Point `best` at the checkpoint of `step`, which has been saved."""
        if is_main():
            assert (self.root / _name(step)).is_dir(), f"step {step} has no checkpoint"
            self._point("best", _name(step))
            self._drop_old()
        barrier()

    def restore_best(self, step: int) -> bool:
        """Point `best` at the checkpoint of `step` again, after a resume; False where that checkpoint is gone."""
        found = broadcast_object((self.root / _name(step) / STATE_FILE).is_file())
        if found:
            self.mark_best(step)
        return found

    def best(self) -> Path | None:
        """The checkpoint marked best, if there is one. Rank 0 decides."""
        return broadcast_object(self._best())

    def _best(self) -> Path | None:
        pointer = self.root / "best"
        return self.root / pointer.read_text().strip() if pointer.is_file() else None

    def _folders(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        names = (path for path in self.root.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name))
        return sorted((path for path in names if (path / STATE_FILE).is_file()), key=lambda path: int(path.name[5:]))

    def _drop_old(self) -> None:
        best = self._best()
        for folder in self._folders()[: -self.keep]:
            if folder != best:
                shutil.rmtree(folder)

    def _point(self, name: str, target: str) -> None:
        unfinished = self.root / f".tmp-{name}"
        unfinished.write_text(target + "\n")
        _flush(unfinished)
        unfinished.replace(self.root / name)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _flush(path: Path) -> None:
    """Wait until the file, or the folder with all below it, is on disk."""
    for file in (path, *path.rglob("*")):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
