"""Whether runs searched the same documents: else their values cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

NAMED = 3  # names of a group in the warning, at most


def about_searched(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """What is to be said if runs searched different documents, in a list; empty if all searched the same ones, or none.

    `entries`: the name of each run or configuration, and its summary or its entry of a test set. Runs of before
    "searched" was stored are told apart by "partial" alone.
    """
    groups: dict[tuple[bool, str], dict[str, None]] = {}
    words = {}
    for name, entry in entries:
        searched, partial = entry.get("searched") or {}, entry.get("partial") or {}
        key = (bool(partial), str((searched or partial).get("hash", "")))
        groups.setdefault(key, {})[name] = None
        words[key] = _in_words(searched or partial)
    parts, hashes = ({key[place] for key in groups} for place in (0, 1))
    if len(parts) < 2 and len(hashes - {""}) < 2:  # "": of all documents, or of candidates, no hash is known
        return []
    said = "; ".join(f"{words[key]} ({_listed(list(names))})" for key, names in groups.items())
    return [
        f"different documents were searched, so no values are compared: {said}; measure all on the same ones "
        "(eval.max_documents, eval.max_queries, data.path)"
    ]


def _in_words(entry: Mapping[str, Any]) -> str:
    if not entry:
        return "all documents"
    return f"{entry['documents']:,} documents" if "of" not in entry else f"{entry['documents']:,} of {entry['of']:,}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + f" and {len(names) - NAMED} more" * (len(names) > NAMED)
