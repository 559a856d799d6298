"""Stable integer hashes. They are the keys of random sampling, which so does not depend on rank or process."""

import hashlib
from pathlib import Path

import numpy as np

from data.progress import Progress


def stable_hash(*parts: int | str) -> int:
    """A 63-bit hash of `parts`, equal on every rank, platform and Python version.

    >>> stable_hash("chunk", 1, 2) == stable_hash("chunk", 1, 2) != stable_hash("chunk", 12)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def text_hash(text: str) -> int:
    """A hash of a text without surrounding white space, to find duplicates."""
    return stable_hash("text", text.strip())


def among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each value is one of the `known` ones, which are sorted. It needs 8 bytes a value."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    places = np.searchsorted(known, values)
    places[places == len(known)] = 0
    return known[places] == values


def file_digest(file: Path) -> str:
    """A hash of the content of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream, Progress(f"hashing {file.name}", file.stat().st_size >> 20, "MiB") as progress:
        while block := stream.read(2**20):
            digest.update(block)
            progress.advance()
    return digest.hexdigest()
