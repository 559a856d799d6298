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

from engines.checkpoint.manifest import MANIFEST_FILE, file_entries, first_problem, flush, write_manifest
from engines.distributed import process_group
from engines.distributed.collectives import broadcast_object, gather_objects
from engines.distributed.process_group import barrier, is_main, rank, world_size

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
BEST_STEP = "best_step"  # the only key of a state that the store itself reads: the step of the best checkpoint
StoredCheckpoint = tuple[Path, dict[str, Any]]  # the folder of a checkpoint and its state


@dataclass(frozen=True)
class CheckpointScan:
    """The contents of a folder of checkpoints, as `scan_checkpoints` finds them."""

    newest: StoredCheckpoint | None = None  # the newest intact checkpoint
    broken: tuple[tuple[Path, str], ...] = ()  # newer ones that are broken, with the reason; newest first


class CheckpointStore:
    """The checkpoints of a run: folders `root`/step-NNNNNN.

    The store keeps the last `keep` checkpoints, the best one, and the ones that the states of the last `keep` name as
    their best. Call every method on all ranks.

    All ranks write into one hidden folder. Once everything is on disk, with a manifest of sizes and hashes, the folder
    is renamed. So a kill at any moment leaves complete checkpoints and hidden leftovers, which the next start removes.
    `root`/latest and `root`/best are text files with the name of a folder.

    With `background`, a thread writes while training continues, one checkpoint at a time: the next `save` waits for
    it. An error on any rank is raised on all ranks: by `save` or, with `background`, by the next `save` or `wait`.
    """

    def __init__(self, root: Path, keep: int = 2, *, background: bool = False):
        if keep < 1:
            raise ValueError(f"trainer.keep_checkpoints must be at least 1, got {keep}")
        self.root = root
        self.keep = keep
        self.background = background
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        # Random, one per launch: a rank that is left over from an earlier launch writes to another folder.
        self._token: str | None = None
        # The process group of the thread: its collectives must not mix with those of training.
        self._group: Any = None

    def save(
        self, step: int, write: Callable[[Path], list[Path]], state: dict[str, Any], *, best: bool = False
    ) -> Path:
        """Save a checkpoint, make it the latest (and the `best`), and remove old ones.

        Every rank calls `write` with the new folder; `write` returns the files that it has written. `state` holds JSON
        types. Raises OSError on every rank if any rank could not write: earlier checkpoints are kept, and nothing is
        left of this one.
        """
        self.wait()
        if self._token is None:
            self._token = broadcast_object(secrets.token_hex(4))
            if self.background and world_size() > 1:
                self._group = dist.new_group(backend="gloo", timeout=process_group.timeout())
        if self.background:
            self._thread = threading.Thread(target=self._save_in_thread, args=(step, write, state, best), name="save")
            self._thread.start()
        else:
            self._commit(step, write, state, best)
        return self.root / checkpoint_name(step)

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is complete. Raises its error, if there was one."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def latest(self) -> StoredCheckpoint | None:
        """The newest intact checkpoint and its state; None if there is none. Broken ones are renamed."""
        scan = scan_checkpoints(self.root)
        if is_main():
            clean_up(self.root, scan)
        barrier()
        return scan.newest

    def set_pointers(self, step: int, best_step: int | None) -> bool:
        """Make `step` the latest and `best_step` the best again (None: there is no best).

        A kill may have happened after a checkpoint was renamed and before its pointer was written. Returns False if the
        best checkpoint is missing or broken.
        """
        best = None if best_step is None else self.root / checkpoint_name(best_step)
        problem = None if best is None or best_step == step else _problem(best)
        if is_main():
            self._write_pointer("latest", checkpoint_name(step))
            if best is None:
                (self.root / "best").unlink(missing_ok=True)
            elif problem:
                logger.warning("the best checkpoint %s cannot be used: %s", best, problem)
            else:
                self._write_pointer("best", best.name)
        barrier()
        return problem is None

    def best(self) -> Path | None:
        """The best checkpoint; None if there is none. Raises ValueError on every rank if it is broken."""
        self.wait()
        folder = broadcast_object(self._best())
        if folder is not None and (problem := _problem(folder)):
            raise ValueError(
                f"the best checkpoint {folder} is broken: {problem}; remove that folder, and the same command uses "
                "the newest instead"
            )
        return folder

    def _save_in_thread(self, *arguments: Any) -> None:
        try:
            self._commit(*arguments)
        except BaseException as error:
            self._failure = error

    def _commit(self, step: int, write: Callable[[Path], list[Path]], state: dict[str, Any], best: bool) -> None:
        """Write on every rank, gather the outcomes, publish the checkpoint if all ranks succeeded."""
        unfinished = self.root / f".tmp-{checkpoint_name(step)}-{self._token}"
        entries, failure = {}, None
        try:
            # On every rank: some file systems show a new folder to other nodes only after a while.
            unfinished.mkdir(parents=True, exist_ok=True)
            entries = file_entries(write(unfinished))
        except Exception as error:  # raised below, since the other ranks wait in a collective
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
                "intact; free disk space or repair the disk, and the same command resumes"
            )

    def _publish(self, step: int, unfinished: Path, files: dict[str, Any], state: dict[str, Any], best: bool) -> None:
        (unfinished / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
        write_manifest(unfinished, files | file_entries([unfinished / STATE_FILE]))
        folder, replaced = self.root / checkpoint_name(step), self.root / f".old-{checkpoint_name(step)}"
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
        flush(self.root)
        self._write_pointer("latest", folder.name)
        if best:
            self._write_pointer("best", folder.name)
        _remove(replaced)
        self._remove_old()

    def _best(self) -> Path | None:
        pointer = self.root / "best"
        return self.root / pointer.read_text().strip() if pointer.is_file() else None

    def _remove_old(self) -> None:
        folders = _folders(self.root)
        kept = folders[-self.keep :]
        kept += [self.root / checkpoint_name(step) for step in map(_best_step, kept) if step is not None]
        for folder in folders:
            if folder not in kept and folder != self._best():
                removed = self.root / f".tmp-dropped-{folder.name}"
                folder.rename(removed)  # atomic: nobody ever sees half of a checkpoint
                _remove(removed)

    def _write_pointer(self, name: str, target: str) -> None:
        unfinished = self.root / f".tmp-{name}"
        unfinished.write_text(target + "\n")
        flush(unfinished)
        unfinished.replace(self.root / name)
        flush(self.root)


def scan_checkpoints(root: Path) -> CheckpointScan:
    """Find the newest intact checkpoint in `root`, and change nothing. Call on all ranks: each reads a part of it."""
    broken: list[tuple[Path, str]] = []
    for folder in broadcast_object(_candidates(root) if is_main() else []):
        final = root / folder.name.removeprefix(".old-")
        problem = _problem(folder)
        if problem is None:
            state = broadcast_object(read_state(folder) if is_main() else {})
            return CheckpointScan((final, state), tuple(broken))
        broken.append((final, problem))
    return CheckpointScan(None, tuple(broken))


def clean_up(root: Path, scan: CheckpointScan) -> None:
    """Remove the leftovers of a kill, and rename each broken checkpoint of `scan` to step-NNNNNN.broken, with a
    warning. Call on rank 0 only."""
    for replaced in root.glob(".old-*"):
        folder = root / replaced.name.removeprefix(".old-")
        if not folder.exists():
            replaced.rename(folder)  # the kill happened before the new checkpoint replaced it
    for leftover in (*root.glob(".old-*"), *root.glob(".tmp-*")):
        _remove(leftover)
    for folder, problem in scan.broken:
        earlier = [other for other in _folders(root) if _step_of(other) < _step_of(folder)]
        fallback = f"trying the checkpoint before it, {earlier[-1].name}" if earlier else "there is none before it"
        logger.warning("checkpoint %s is broken: %s; %s", folder, problem, fallback)
        _remove(folder.with_name(f"{folder.name}.broken"))
        folder.rename(folder.with_name(f"{folder.name}.broken"))


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state that was passed to `save`."""
    return json.loads((folder / STATE_FILE).read_text())


def replace_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state of a checkpoint. Only for a copy that no run has resumed from yet."""
    (folder / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
    entries = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    write_manifest(folder, entries | file_entries([folder / STATE_FILE]))


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint of a step."""
    return f"step-{step:06d}"


def _problem(folder: Path) -> str | None:
    """The `first_problem` of the folder, the same on every rank; each rank reads a part of the files.

    Raises OSError on all ranks if one of them cannot read: that may be temporary, and does not make the checkpoint
    broken.
    """
    problem: str | None = None
    failure: str | None = None
    try:
        problem = first_problem(folder, rank(), world_size())
    except OSError as error:
        failure = f"rank {rank()}: {error}"
    outcomes = gather_objects((problem, failure))
    if failure := next((text for _, text in outcomes if text), None):
        raise OSError(
            f"the checkpoint {folder} cannot be read ({failure}): start the same command again once it can be, or "
            "remove that folder to use the one before it"
        )
    return next((reported for reported, _ in outcomes if reported is not None), None)


def _candidates(root: Path) -> list[Path]:
    """All checkpoints, newest first. One that was being replaced when the process was killed is included."""
    replaced = [path for path in root.glob(".old-step-*") if not (root / path.name.removeprefix(".old-")).exists()]
    return sorted([*_folders(root), *replaced], key=_step_of, reverse=True)


def _folders(root: Path) -> list[Path]:
    """The folders step-NNNNNN, oldest first."""
    names = (path for path in root.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name))
    return sorted(names, key=_step_of)


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _best_step(folder: Path) -> int | None:
    """The best step in the state of a checkpoint; None if it cannot be read, which is reported when it is loaded."""
    try:
        return read_state(folder).get(BEST_STEP)
    except (OSError, ValueError):
        return None


def _remove(path: Path) -> None:
    """Remove a file or a folder. Whatever cannot be removed stays hidden until the next start tries again."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
