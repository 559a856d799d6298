"""A cache of files: each is made once, under another name that is then renamed, by one process at a time."""

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

    Several ranks or runs may ask at once: the first makes it, the others wait. An interrupted one leaves no `path`.
    Raises ValueError that names `data.cache_dir` if nothing can be written beside it.
    """
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # permissions alone do not say whether a file can be made: file systems are full or read-only
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
                for made in (*temporary.rglob("*"), temporary):
                    _flush(made)  # a host may lose its power: the name must not be on disk before the content
                os.replace(temporary, path)
            finally:
                shutil.rmtree(workspace, ignore_errors=True)
    return path


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises ValueError that names the file if it is broken."""
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            return dict(arrays)
    except OSError:
        raise
    except Exception as error:  # whatever the first broken byte belongs to
        raise ValueError(f"{file} is broken ({error}): remove it, and it is made again") from None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
