"""Checkpoints on disk, written atomically."""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from engines.checkpoint.manifest import MANIFEST_FILE, describe, first_problem, flush, write_manifest
from engines.distributed import process_group
from engines.distributed.collectives import broadcast_object, gather_objects
from engines.distributed.process_group import barrier, is_main, rank, world_size

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
BEST_STEP = "best_step"  # the one key of a state that the store reads: the step of the best checkpoint
Found = tuple[Path, dict[str, Any]]  # a checkpoint's folder and its state


@dataclass(frozen=True)
class Survey:
    """What a folder of checkpoints holds; looking changes nothing (see `survey` and `repair`)."""

    newest: Found | None = None  # the newest whole checkpoint
    broken: tuple[tuple[Path, str], ...] = ()  # the newer ones and what is wrong with them, newest first


class CheckpointStore:
    """Folders `root`/step-NNNNNN. The last `keep` and the best stay, and the best ones that their states name.

    All ranks write into one hidden folder. When everything is on disk, with a manifest of sizes and hashes, the folder
    is renamed. So a kill at any moment leaves whole checkpoints and hidden remains, which the next start removes.
    `root`/latest and `root`/best are text files with the name of a folder. All ranks make every call.

    In the `background` a thread writes while training continues, one checkpoint at a time: the next `save` waits for
    it. Errors are raised on all ranks alike, by `save` or, in the background, by the next `save` or `wait`.
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
        (and the `best`), drop old ones. Raises OSError on every rank if any rank could not write: the checkpoints
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
        return self.root / checkpoint_name(step)

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def latest(self) -> Found | None:
        """The newest whole checkpoint and its state; None if there is none. Broken ones are moved out of the way."""
        found = survey(self.root)
        if is_main():
            repair(self.root, found)
        barrier()
        return found.newest

    def point_to(self, step: int, best_step: int | None) -> bool:
        """Make `step` the latest and `best_step` the best again: a kill may have come between a checkpoint and its
        pointer. None: none is the best. Returns False if the best is gone or broken."""
        best = None if best_step is None else self.root / checkpoint_name(best_step)
        problem = None if best is None or best_step == step else _problem(best)
        if is_main():
            self._point("latest", checkpoint_name(step))
            if best is None:
                (self.root / "best").unlink(missing_ok=True)
            elif problem:
                logger.warning("the best checkpoint %s cannot be used: %s", best, problem)
            else:
                self._point("best", best.name)
        barrier()
        return problem is None

    def best(self) -> Path | None:
        """The checkpoint marked best, if there is one. Raises ValueError on every rank if it is broken."""
        self.wait()
        folder = broadcast_object(self._best())
        if folder is not None and (problem := _problem(folder)):
            raise ValueError(
                f"the best checkpoint {folder} is broken: {problem}; remove that folder, and the same command takes "
                "the newest instead"
            )
        return folder

    def _keep_failure(self, *arguments: Any) -> None:
        try:
            self._commit(*arguments)
        except BaseException as error:
            self._failure = error

    def _commit(self, step: int, write: Callable[[Path], list[Path]], state: dict[str, Any], best: bool) -> None:
        """Write on every rank, exchange how it went, publish."""
        unfinished = self.root / f".tmp-{checkpoint_name(step)}-{self._token}"
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
                "whole; make room or repair the disk, and the same command resumes"
            )

    def _publish(self, step: int, unfinished: Path, files: dict[str, Any], state: dict[str, Any], best: bool) -> None:
        (unfinished / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
        write_manifest(unfinished, files | describe([unfinished / STATE_FILE]))
        folder, replaced = self.root / checkpoint_name(step), self.root / f".old-{checkpoint_name(step)}"
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
        flush(self.root)
        self._point("latest", folder.name)
        if best:
            self._point("best", folder.name)
        _remove(replaced)
        self._drop_old()

    def _best(self) -> Path | None:
        pointer = self.root / "best"
        return self.root / pointer.read_text().strip() if pointer.is_file() else None

    def _drop_old(self) -> None:
        folders = _folders(self.root)
        kept = folders[-self.keep :]
        kept += [self.root / checkpoint_name(step) for step in map(_best_step, kept) if step is not None]
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


def survey(root: Path) -> Survey:
    """Find the newest whole checkpoint below `root` without changing anything. Call on all ranks: each reads a part of
    the files."""
    broken: list[tuple[Path, str]] = []
    for folder in broadcast_object(_candidates(root) if is_main() else []):
        final = root / folder.name.removeprefix(".old-")
        problem = _problem(folder)
        if problem is None:
            state = broadcast_object(read_state(folder) if is_main() else {})
            return Survey((final, state), tuple(broken))
        broken.append((final, problem))
    return Survey(None, tuple(broken))


def repair(root: Path, found: Survey) -> None:
    """Remove what a kill has left, and keep each broken checkpoint of a survey aside as step-NNNNNN.broken, with a
    warning. Call on rank 0 alone."""
    for replaced in root.glob(".old-*"):
        folder = root / replaced.name.removeprefix(".old-")
        if not folder.exists():
            replaced.rename(folder)  # a kill came before the new one took its place
    for remains in (*root.glob(".old-*"), *root.glob(".tmp-*")):
        _remove(remains)
    for folder, problem in found.broken:
        earlier = [other for other in _folders(root) if _step_of(other) < _step_of(folder)]
        use = f"the checkpoint before it, {earlier[-1].name}, is tried" if earlier else "there is none before it"
        logger.warning("checkpoint %s is broken: %s; %s", folder, problem, use)
        _remove(folder.with_name(f"{folder.name}.broken"))
        folder.rename(folder.with_name(f"{folder.name}.broken"))


def read_state(folder: Path) -> dict[str, Any]:
    """The state that `save` was given."""
    return json.loads((folder / STATE_FILE).read_text())


def replace_state(folder: Path, state: dict[str, Any]) -> None:
    """Give another state to a checkpoint that no run has resumed from yet."""
    (folder / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
    entries = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    write_manifest(folder, entries | describe([folder / STATE_FILE]))


def checkpoint_name(step: int) -> str:
    """The name of the folder of a step's checkpoint."""
    return f"step-{step:06d}"


def _problem(folder: Path) -> str | None:
    """`first_problem` of the folder, the same on every rank; each reads a part of the files. Raises OSError on all
    ranks if one cannot read: that may pass, and is no reason to give up a checkpoint."""
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


def _candidates(root: Path) -> list[Path]:
    """All checkpoints, newest first, among them one that was about to be replaced when a kill came."""
    replaced = [path for path in root.glob(".old-step-*") if not (root / path.name.removeprefix(".old-")).exists()]
    return sorted([*_folders(root), *replaced], key=_step_of, reverse=True)


def _folders(root: Path) -> list[Path]:
    """The checkpoints in their places, oldest first."""
    names = (path for path in root.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name))
    return sorted(names, key=_step_of)


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _best_step(folder: Path) -> int | None:
    """The step that a checkpoint names as its best; None if it cannot be read: that is found out when it is used."""
    try:
        return read_state(folder).get(BEST_STEP)
    except (OSError, ValueError):
        return None


def _remove(path: Path) -> None:
    """A file, or a folder with all below it; what resists stays hidden, and is tried again at the next start."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
