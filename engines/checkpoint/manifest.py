"""The manifest of a checkpoint: the size and SHA-256 of every file, so that damage is found before it is loaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

MANIFEST_FILE = "manifest.json"
BLOCK_BYTES = 2**22
MISSING_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

Entry = dict[str, int | str]  # {"bytes": ..., "sha256": ...}


def file_entries(files: Iterable[Path]) -> dict[str, Entry]:
    """Flush `files` to disk and return their manifest entries, by name."""
    entries: dict[str, Entry] = {}
    for file in files:
        flush(file)
        entries[file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    return entries


def write_manifest(folder: Path, entries: dict[str, Entry]) -> None:
    """Write the manifest of `folder` and flush it to disk."""
    file = folder / MANIFEST_FILE
    file.write_text(json.dumps({"files": dict(sorted(entries.items()))}, indent=1) + "\n")
    flush(file)
    flush(folder)


def first_problem(folder: Path, part: int = 0, num_parts: int = 1) -> str | None:
    """Describe the first damaged file of the checkpoint in `folder`; None if it is complete and intact.

    The files are divided into `num_parts` parts, and only those of `part` are read. Raises OSError if a file exists but
    cannot be read now, which does not mean that it is damaged.
    """
    try:
        listed = json.loads((folder / MANIFEST_FILE).read_text())["files"]
        entries = {name: (entry["bytes"], entry["sha256"]) for name, entry in sorted(listed.items())}
    except MISSING_ERRORS:
        return f"{MANIFEST_FILE} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_FILE} cannot be read ({type(error).__name__})"
    for name in [*entries][part::num_parts]:
        if problem := _file_problem(folder / name, *entries[name]):
            return f"{name} {problem}"
    return None


def _file_problem(file: Path, size: int, digest: str) -> str | None:
    try:
        actual_size = file.stat().st_size
        if actual_size != size:
            return f"has {actual_size:,} bytes instead of {size:,}"
        return None if sha256(file) == digest else "has other content than was written (SHA-256)"
    except MISSING_ERRORS:
        return "is missing"


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
