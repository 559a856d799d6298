"""Stable integer keys: every random draw is a function of what it is for, never of the rank or the process."""

import hashlib


def stable_hash(*parts: int | str) -> int:
    """A 63-bit integer that depends on `parts` alone: equal on every rank, platform and Python version.

    >>> stable_hash("chunk", 1, 2) == stable_hash("chunk", 1, 2) != stable_hash("chunk", 12)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def text_hash(text: str) -> int:
    """A hash, equal for texts that are equal up to surrounding white space: it finds duplicates without the texts."""
    return stable_hash("text", text.strip())
