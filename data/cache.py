"""A cache of files. Each is made once, by one process at a time, under a temporary name that is then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock


def cached(path: Path, make: Callable[[Path], None]) -> Path:
    """Return `path`; if it does not exist, `make(temporary_path)` first writes it as a file or a folder.

    If several ranks or runs call it, the first makes the file and the others wait. If it is interrupted, there is no
    `path`. Raises ValueError, which names `data.cache_dir`, if the folder cannot be written.
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
            workspace = Path(tempfile.mkdtemp(dir=path.parent, prefix=".making-"))
            try:
                temporary = workspace / path.name
                make(temporary)
                for written in (*temporary.rglob("*"), temporary):
                    _flush(written)  # so that after a power failure the name is not there without the content
                os.replace(temporary, path)
            finally:
                shutil.rmtree(workspace, ignore_errors=True)
    return path


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
