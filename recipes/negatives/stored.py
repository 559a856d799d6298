"""Arrays of one part of a long computation, kept in the cache: a process that was killed goes on with the next part."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.cache import read_arrays
from data.collection import content_hash
from engines.distributed.collectives import on_main
from engines.distributed.process_group import is_main
from engines.memory.allocator import return_freed_memory
from runs.source_tree import ROOT

CODE = ("recipes/negatives", "inference", "data/sampling", "evaluation/list_scorer.py")  # what the parts depend on


class StoredParts:
    """The parts in a folder of the cache, whose name ends in a hash of what they depend on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, cache: Path, name: str, key: Mapping[str, Any]) -> StoredParts:
        """The parts of that name and key, and of this code."""
        return cls(cache / "mined" / f"{name}-{content_hash(dict(key), [code_digest()])}")

    def get(self, number: int, compute: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """The arrays of a part. All ranks call it together, and `compute` if they are not there; rank 0 writes them."""
        file = self.folder / f"{number:06d}.npz"
        if on_main(file.is_file):
            return read_arrays(file)
        arrays = compute()
        return_freed_memory()
        if is_main():
            write_arrays(file, arrays)
        return arrays


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file atomically. Raises ValueError, which names `data.cache_dir`, if that is not possible."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, **dict(arrays))  # type: ignore[arg-type]  # names, not options
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"data.cache_dir: {file.parent} cannot be written ({error.strerror or error}): free space, or choose "
            "another folder"
        ) from None


def code_digest() -> str:
    """A hash of the code that the parts depend on."""
    places = [ROOT / name for name in CODE]
    files = sorted(file for place in places for file in ([place] if place.is_file() else place.rglob("*.py")))
    return content_hash([(str(file.relative_to(ROOT)), file.read_text()) for file in files])


def ragged(arrays: list[np.ndarray], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """The arrays one after the other, and where each ends."""
    joined = np.concatenate([np.empty(0, dtype=dtype), *arrays]).astype(dtype)
    return joined, np.cumsum([len(array) for array in arrays], dtype=np.int64)


def unragged(joined: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """The inverse of `ragged`."""
    return np.split(joined, ends[:-1]) if len(ends) else []
