"""A cache of files. Each is made once, by one process at a time, under a temporary name that is then renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from data.progress import making

UNFINISHED = ".making-"  # begins the names of what is not finished
FOLDERS = ("bm25", "candidates", "collections", "mined", "texts", "tokens", "vectors", "written")  # of a cache
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # of numpy, which names no reason
ALONE = ("docstrings-", "documents-", UNFINISHED)  # begin the names of what stands beside them


def cached(path: Path, make: Callable[[Path], None], *, resumable: bool = False) -> Path:
    """Return `path`; if it does not exist, `make(temporary_path)` first writes it as a file or a folder.

    If several ranks or runs call it, the first makes the file and the others wait. If it is interrupted, there is no
    `path`; a `resumable` one finds the folder that it had begun. Raises ValueError, which names `data.cache_dir`, if
    the folder cannot be written.
    """
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # try to create a file: permissions do not show that a file system is full or read-only
    except OSError as error:
        raise ValueError(
            f"data.cache_dir: {path.parent} cannot be written ({error.strerror}); choose another folder"
        ) from None
    with FileLock(path.with_name(path.name + ".lock")):
        if not path.exists():
            workspace = path.with_name(f"{UNFINISHED}{path.name}")
            if not resumable:
                shutil.rmtree(workspace, ignore_errors=True)  # of a process that was killed
            try:
                with making():
                    _make(path, workspace / path.name, make)
            finally:
                if not resumable:
                    shutil.rmtree(workspace, ignore_errors=True)
                with suppress(OSError):  # it has something to go on with, or is gone
                    workspace.rmdir()
    return path


def entry_of(folder: Path, name: str, key: str) -> Path:
    """The entry of that `key`, which says what is in it. Its name begins with `name` unless it was made under another:
    a folder of data may be renamed."""
    found = sorted(path for path in folder.glob(f"*-{key}") if not path.name.startswith(UNFINISHED))
    return found[0] if found else folder / f"{name}-{key}"


def _make(path: Path, temporary: Path, make: Callable[[Path], None]) -> None:
    try:
        temporary.parent.mkdir(exist_ok=True)
        make(temporary)
        for written in (*temporary.rglob("*"), temporary):
            _flush(written)  # so that after a power failure the name is not there without the content
    except OSError as error:
        if error.errno not in FULL and not SHORT_WRITE.search(str(error)):
            raise
        raise ValueError(
            f"data.cache_dir: {path.parent} has no space left for {path.name} ({error.strerror or error}): free some "
            "(launch/cache.py list shows what is there), or choose another folder"
        ) from None
    os.replace(temporary, path)


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


@dataclass(frozen=True)
class Entry:
    """A file or folder of the cache. Its name is its path below the cache."""

    name: str
    num_bytes: int
    changed: float  # seconds since 1970
    is_finished: bool = True


def entries(folder: Path) -> list[Entry]:
    """What a cache holds, sorted by name: the members of its folders, and what stands beside these."""
    tops = [path for path in folder.glob("*") if path.name in FOLDERS or path.name.startswith(ALONE)]
    paths = [path for top in tops for path in (top.iterdir() if top.name in FOLDERS else [top])]
    return sorted(
        (
            Entry(
                str(path.relative_to(folder)), size_of(path), path.stat().st_mtime, not path.name.startswith(UNFINISHED)
            )
            for path in paths
            if path.suffix != ".lock"
        ),
        key=lambda entry: entry.name,
    )


def remove(folder: Path, name: str) -> list[Entry]:
    """Remove the entries of that name, with or without their folder's. Raises ValueError if there is none, or if one is
    being made."""
    found = [entry for entry in entries(folder) if name in (entry.name, Path(entry.name).name)]
    if not found:
        raise ValueError(f"{name} is no entry of the cache {folder}; launch/cache.py list shows them")
    for entry in found:
        path = folder / entry.name
        lock = FileLock(path.with_name(path.name.removeprefix(UNFINISHED) + ".lock"))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except Timeout:
            raise ValueError(f"{entry.name} is being made by a process that runs: stop it first") from None
        Path(lock.lock_file).unlink(missing_ok=True)
    return found


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file by name. Raises ValueError, which names the file, if it is broken."""
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            return dict(arrays)
    except OSError:
        raise
    except Exception as error:  # the exception depends on what is broken
        raise ValueError(f"{file} is broken ({error}): remove it, and it is made again") from None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
