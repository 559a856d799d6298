"""Checkpoints on disk: whole or not there at all."""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist

from engines.checkpoint.manifest import MANIFEST_FILE, describe, first_problem, flush, write_manifest
from engines.distributed import process_group
from engines.distributed.collectives import broadcast_object, gather_objects
from engines.distributed.process_group import barrier, is_main, rank, world_size

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
Found = tuple[Path, dict[str, Any]]  # a checkpoint's folder and its state


class CheckpointStore:
    """`root`/step-NNNNNN folders, of which the last `keep` and the best stay, and what these name as their best.

    All ranks write into one hidden folder; when all is on disk, a manifest of sizes and hashes too, it is renamed. So a
    kill at any moment leaves whole checkpoints and hidden remains, which the next start removes.
    `root`/latest and `root`/best are text files with the name of a folder. All ranks make every call.

    In the `background` a thread writes while training goes on, one checkpoint at a time: the next `save` waits for it.
    What fails is raised on all ranks alike, by `save` or, in the background, by the next `save` or `wait`.
    """

    def __init__(self, root: Path, keep: int = 2, *, background: bool = False):
        if keep < 1:
            raise ValueError(f"trainer.keep_checkpoints must be at least 1, got {keep}")
        self.root = root
        self.keep = keep
        self.background = background
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._token: str | None = None  # of this launch: a rank left over from an earlier one writes elsewhere
        self._group: Any = None  # the thread's own: its collectives must not mix with those of training

    def save(
        self, step: int, write: Callable[[Path], list[Path]], state: dict[str, Any], *, best: bool = False
    ) -> Path:
        """Let every rank `write` into a new folder (it returns its files), add `state` (JSON types), make it the latest
        (and the `best`), drop old ones. Raises OSError on every rank where any of them could not write: the checkpoints
        before it stay, and nothing is left of this one."""
        self.wait()
        if self._token is None:
            self._token = broadcast_object(secrets.token_hex(4))
            if self.background and world_size() > 1:
                self._group = dist.new_group(backend="gloo", timeout=process_group.timeout())
        if self.background:
            self._thread = threading.Thread(target=self._keep_failure, args=(step, write, state, best), name="save")
            self._thread.start()
        else:
            self._commit(step, write, state, best)
        return self.root / _name(step)

    def wait(self) -> None:
        """Until what is being written is a checkpoint."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def latest(self) -> Found | None:
        """The newest whole checkpoint and its state, None where there is none; every rank reads a part of the files.

        A broken one is named, and kept beside as step-NNNNNN.broken.
        """
        if is_main():
            self._tidy()
        while True:
            folders = broadcast_object(self._folders() if is_main() else [])
            if not folders:
                return None
            folder = folders[-1]
            problem = self._problem(folder)
            if problem is None:
                return broadcast_object((folder, read_state(folder)) if is_main() else None)
            if is_main():
                before = folders[-2] if len(folders) > 1 else None
                use = f"the checkpoint before it, {before.name}, is tried" if before else "there is none before it"
                logger.warning("checkpoint %s is broken: %s; %s", folder, problem, use)
                _remove(folder.with_name(f"{folder.name}.broken"))
                folder.rename(folder.with_name(f"{folder.name}.broken"))

    def point_to(self, step: int, best_step: int | None) -> bool:
        """Make `step` the latest and `best_step` the best again: a kill may have come between a checkpoint and its
        pointer. None: none is the best. False where the best is gone or broken."""
        best = None if best_step is None else self.root / _name(best_step)
        problem = None if best is None or best_step == step else self._problem(best)
        if is_main():
            self._point("latest", _name(step))
            if best is None:
                (self.root / "best").unlink(missing_ok=True)
            elif problem:
                logger.warning("the best checkpoint %s cannot be used: %s", best, problem)
            else:
                self._point("best", best.name)
        barrier()
        return problem is None

    def best(self) -> Path | None:
        """The checkpoint marked best, if there is one. Raises ValueError on every rank where it is broken."""
        self.wait()
        folder = broadcast_object(self._best())
        if folder is not None and (problem := self._problem(folder)):
            raise ValueError(
                f"the best checkpoint {folder} is broken: {problem}; remove that folder, and the same command takes "
                "the newest instead"
            )
        return folder

    def _problem(self, folder: Path) -> str | None:
        """`first_problem` of the folder, the same on every rank, each of which reads a part of the files. Raises
        OSError on all of them where one cannot read: that may pass, and is no reason to give up a checkpoint."""
        problem: str | None = None
        failure: str | None = None
        try:
            problem = first_problem(folder, rank(), world_size())
        except OSError as error:
            failure = f"rank {rank()}: {error}"
        outcomes = gather_objects((problem, failure))
        if failure := next((text for _, text in outcomes if text), None):
            raise OSError(
                f"the checkpoint {folder} cannot be read ({failure}): start the same command again once it can, or "
                "remove that folder to use the one before it"
            )
        return next((found for found, _ in outcomes if found is not None), None)

    def _keep_failure(self, *arguments: Any) -> None:
        try:
            self._commit(*arguments)
        except BaseException as error:
            self._failure = error

    def _commit(self, step: int, write: Callable[[Path], list[Path]], state: dict[str, Any], best: bool) -> None:
        """On every rank: write, tell each other how it went, publish."""
        unfinished = self.root / f".tmp-{_name(step)}-{self._token}"
        entries, failure = {}, None
        try:
            unfinished.mkdir(parents=True, exist_ok=True)  # by every rank: not every file system shows it at once
            entries = describe(write(unfinished))
        except Exception as error:  # the others wait
            failure = error
        outcomes = gather_objects((entries, failure and f"rank {rank()}: {failure}"), self._group)
        message = next((text for _, text in outcomes if text), None)
        if is_main():
            try:
                if message is None:
                    files = {name: entry for written, _ in outcomes for name, entry in written.items()}
                    self._publish(step, unfinished, files, state, best)
            except OSError as error:
                message = f"rank 0: {error}"
            if message:
                shutil.rmtree(unfinished, ignore_errors=True)
        message = broadcast_object(message, self._group)
        if failure is not None and not isinstance(failure, OSError):
            raise failure
        if message:
            raise OSError(
                f"the checkpoint of step {step} could not be written ({message}): those before it in {self.root} are "
                "whole; make room or mend the disk, and the same command goes on"
            )

    def _publish(self, step: int, unfinished: Path, files: dict[str, Any], state: dict[str, Any], best: bool) -> None:
        (unfinished / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
        write_manifest(unfinished, files | describe([unfinished / STATE_FILE]))
        folder, replaced = self.root / _name(step), self.root / f".old-{_name(step)}"
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
        flush(self.root)
        self._point("latest", folder.name)
        if best:
            self._point("best", folder.name)
        _remove(replaced)
        self._drop_old()

    def _tidy(self) -> None:
        """Remove what a kill has left; put back what was about to be replaced."""
        for replaced in self.root.glob(".old-*"):
            folder = self.root / replaced.name.removeprefix(".old-")
            if not folder.exists():
                replaced.rename(folder)
        for remains in (*self.root.glob(".old-*"), *self.root.glob(".tmp-*")):
            _remove(remains)

    def _best(self) -> Path | None:
        pointer = self.root / "best"
        return self.root / pointer.read_text().strip() if pointer.is_file() else None

    def _folders(self) -> list[Path]:
        """Checkpoints, oldest first."""
        names = (path for path in self.root.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name))
        return sorted(names, key=lambda path: int(path.name[5:]))

    def _drop_old(self) -> None:
        folders = self._folders()
        kept = folders[-self.keep :]
        kept += [self.root / _name(step) for step in map(_best_step, kept) if step is not None]
        for folder in folders:
            if folder not in kept and folder != self._best():
                dropped = self.root / f".tmp-dropped-{folder.name}"
                folder.rename(dropped)  # at once: no half of a checkpoint is ever seen
                _remove(dropped)

    def _point(self, name: str, target: str) -> None:
        unfinished = self.root / f".tmp-{name}"
        unfinished.write_text(target + "\n")
        flush(unfinished)
        unfinished.replace(self.root / name)
        flush(self.root)


def read_state(folder: Path) -> dict[str, Any]:
    """What `save` was given as state."""
    return json.loads((folder / STATE_FILE).read_text())


def replace_state(folder: Path, state: dict[str, Any]) -> None:
    """Give a checkpoint that no run goes on from yet another state."""
    (folder / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
    entries = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    write_manifest(folder, entries | describe([folder / STATE_FILE]))


def _best_step(folder: Path) -> int | None:
    """The step that a checkpoint names as its best; None where it cannot be read: that is found out when it is used."""
    try:
        return read_state(folder).get("best_step")
    except (OSError, ValueError):
        return None


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _remove(path: Path) -> None:
    """A file, or a folder with all below it; what resists stays hidden, and is tried again at the next start."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
