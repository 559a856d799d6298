"""What a checkpoint consists of: every file with its size and SHA-256, so that a broken one is known before use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

MANIFEST_FILE = "manifest.json"
BLOCK_BYTES = 2**22
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

Entry = dict[str, int | str]  # {"bytes": ..., "sha256": ...}


def describe(files: Iterable[Path]) -> dict[str, Entry]:
    """The entries of `files`, by name, once they are on disk."""
    entries: dict[str, Entry] = {}
    for file in files:
        flush(file)
        entries[file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    return entries


def write_manifest(folder: Path, entries: dict[str, Entry]) -> None:
    file = folder / MANIFEST_FILE
    file.write_text(json.dumps({"files": dict(sorted(entries.items()))}, indent=1) + "\n")
    flush(file)
    flush(folder)


def first_problem(folder: Path, part: int = 0, of: int = 1) -> str | None:
    """What is wrong with the checkpoint in `folder`, naming the file; None where it is whole. Of its files, the
    `part`-th of every `of` is read. Raises OSError where one cannot be read now, whatever it holds."""
    try:
        listed = json.loads((folder / MANIFEST_FILE).read_text())["files"]
        entries = {name: (entry["bytes"], entry["sha256"]) for name, entry in sorted(listed.items())}
    except ABSENT:
        return f"{MANIFEST_FILE} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_FILE} cannot be read ({type(error).__name__})"
    for name in [*entries][part::of]:
        if problem := _problem_of(folder / name, *entries[name]):
            return f"{name} {problem}"
    return None


def _problem_of(file: Path, size: int, digest: str) -> str | None:
    try:
        found = file.stat().st_size
        if found != size:
            return f"has {found:,} bytes instead of {size:,}"
        return None if sha256(file) == digest else "has other content than was written (SHA-256)"
    except ABSENT:
        return "is missing"


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
