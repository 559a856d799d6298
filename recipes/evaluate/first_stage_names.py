"""The entries of `first_stages`: BM25, a file of rankings, or an embedding model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

BM25_ENTRY = "bm25"
VERSUS = "_vs_"  # stands between two rankers in the names of tests, so no name has it
RUN_SUFFIXES = (".run", ".trec", ".txt", ".tsv", ".jsonl", ".gz")
KINDS = "give bm25, a TREC run or a .jsonl of ranked documents, or the folder or hub id of an embedding model"


def is_run_file(entry: str) -> bool:
    """Whether an entry is a file of rankings. Raises FileNotFoundError if it is called like one and does not exist,
    ValueError if it is a file of another kind."""
    path = Path(entry).expanduser()
    if path.suffix in RUN_SUFFIXES and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"first_stages: {entry}: no such file: {KINDS}")
        return True
    if path.is_file() and path.suffix != ".gguf":
        raise ValueError(f"first_stages: {entry} is not called like a run ({', '.join(RUN_SUFFIXES)}): {KINDS}")
    return False


def check_entries(entries: Sequence[str]) -> None:
    """Raise an error in one line if an entry is twice there, or names a file that does not exist."""
    for place, entry in enumerate(entries):
        if not entry.strip():
            raise ValueError(f"first_stages: entry {place + 1} is empty: {KINDS}")
        if _place(entry) in map(_place, entries[:place]):
            raise ValueError(f"first_stages: {entry} is there twice: leave one out")
        if entry != BM25_ENTRY:
            is_run_file(entry)


def names_of(entries: Sequence[str]) -> dict[str, str]:
    """A short name for each entry, also for files: the name of a run file, or of a model's folder (of a training run's
    `model/`, the run's). One that is taken gets the first free number."""
    names: dict[str, str] = {}
    for entry in entries:
        path = Path(entry)
        stem = path.name.split(".")[0] if entry != BM25_ENTRY and is_run_file(entry) else path.name
        short = path.absolute().parent.name if stem == "model" else stem
        short = re.sub(r"\s+", "_", short).replace(VERSUS, "-vs-") or "first_stage"
        names[next(name for name in chain([short], (f"{short}-{n}" for n in count(2))) if name not in names)] = entry
    return names


def _place(entry: str) -> str:
    """The entry, of what is on this disk its path without links and `..`."""
    path = Path(entry).expanduser()
    return str(path.resolve()) if entry != BM25_ENTRY and path.exists() else entry
