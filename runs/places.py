"""The content of the files that settings name: data, candidates, models. A run may be resumed with the same files at
another path, and not with other files at the same one."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from runs.settings_tree import children_of

# The key of a setting that names files -> the name of each file below that place ("" for a file that the setting names
# itself) -> the digest of its content.
Contents = Mapping[str, Mapping[str, str]]

BLOCK = 1 << 20  # bytes
PLACE_KEY = "name_or_path"  # ends the keys of a model's JSON files that only tell where something was
THREADS = 4


def contents_of(settings: Any) -> dict[str, dict[str, str]]:
    """The content of all files that the options in `settings` name: those of their method `places`.

    Raises ValueError or OSError, which names the place, if one is not found.
    """
    places = dict(_find_places(settings, ""))
    files = sorted({file for named in places.values() for file in named.values()})
    with ThreadPoolExecutor(THREADS) as pool:
        digests = dict(zip(files, pool.map(digest, files), strict=True))
    return {key: {name: digests[file] for name, file in named.items()} for key, named in places.items()}


def _find_places(settings: Any, key: str) -> list[tuple[str, Mapping[str, Path]]]:
    """The files of every setting that names some, by dotted key."""
    prefix = f"{key}." if key else ""
    own = settings.places() if hasattr(settings, "places") else {}
    found = [(f"{prefix}{name}", files) for name, files in own.items()]
    return found + [place for name, child in children_of(settings) for place in _find_places(child, f"{prefix}{name}")]


def digest(file: Path) -> str:
    """A hash of the file's content. A file packed by gzip has that of the unpacked one."""
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns)


@cache  # a run with stages compares the same files for every stage
def _digest(file: Path, size: int, changed_ns: int) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    if file.suffix == ".json" and size <= BLOCK:
        hashed.update(_without_places(file.read_bytes()))
        return hashed.hexdigest()
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        while block := stream.read(BLOCK):
            hashed.update(block)
    return hashed.hexdigest()


def _without_places(content: bytes) -> bytes:
    """The content of a JSON file, however it is laid out (white space, order of keys), without the keys that tell where
    a model was, such as the base of an adapter. What is no JSON stays as it is."""
    try:
        # Objects become tuples, arrays lists, numbers keep all their digits: each has a form of its own.
        tree = json.loads(content, parse_float=Decimal, object_pairs_hook=_sorted)
    except (ValueError, ArithmeticError, RecursionError):
        return content
    if isinstance(tree, tuple):
        tree = tuple((key, value) for key, value in tree if not key.endswith(PLACE_KEY))
    return repr(tree).encode()


def _sorted(pairs: list[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(dict(pairs).items(), key=itemgetter(0)))


def first_difference(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """What is different between an old and a new content of a place, as the beginning of a comparison ("x.jsonl has
    other content than"); None if they are equal."""
    for name in [*new, *old]:
        subject = name or "the file"
        if name not in new:
            return f"{subject} is missing, which it had"
        if name not in old:
            return f"{subject} is there, which it had not"
        if old[name] != new[name]:
            return f"{subject} has other content than"
    return None
