"""Documents listed with queries, in memory-mapped arrays: judgements, labels and candidates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from data.store.texts import StoredTexts, ids_of, rows_of

Listed = TypeVar("Listed", dict[str, int], dict[str, float], list[tuple[str, float]])
AT_ONCE = 1000  # lists that are Python objects at once
NAMES = ("queries", "ends", "documents", "values")


class StoredLists(Mapping[str, Listed], Generic[Listed]):
    """{query id: its documents with a value each}, as `write_lists` wrote them to a folder.

    `kind` is the type that a value of the mapping has: a dict {document id: value}, or a list of pairs.
    """

    def __init__(
        self, folder: Path, queries: Mapping[str, str], documents: Mapping[str, str], kind: type[Listed]
    ) -> None:
        self._queries, self._rows = queries, QueryRows(queries)
        self._kind: type[Listed] = kind
        self._ids = ids_of(documents)
        owners, self._ends, self._documents, self._values = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES
        )
        self._owners = owners
        self._places = np.full(len(queries), -1, dtype=np.int64)
        self._places[owners] = np.arange(len(owners))

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[str]:
        ids = ids_of(self._queries)
        return (ids[row] for row in self._owners.tolist())

    def __contains__(self, query: object) -> bool:
        return isinstance(query, str) and self._place(query) >= 0

    def __getitem__(self, query: str) -> Listed:
        place = self._place(query)
        if place < 0:
            raise KeyError(query)
        start, end = int(self._ends[place - 1]) if place else 0, int(self._ends[place])
        rows, values = self._documents[start:end].tolist(), self._values[start:end].tolist()
        return self._kind((self._ids[row], value) for row, value in zip(rows, values, strict=True))

    def _place(self, query: str) -> int:
        row = self._rows.find(query)
        return -1 if row is None else int(self._places[row])


class QueryRows:
    """The rows of query ids."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        find = getattr(queries, "find", None)
        self.find = find if find is not None else {name: row for row, name in enumerate(queries)}.get


def write_lists(
    folder: Path,
    lists: Mapping[str, Mapping[str, float] | Iterable[tuple[str, float]]],
    queries: Mapping[str, str],
    documents: StoredTexts,
) -> None:
    """Write lists whose queries and documents are known. Integers stay integers."""
    folder.mkdir(parents=True)
    rows, values, sizes = [np.empty(0, dtype=np.uint32)], [np.empty(0, dtype=np.int64)], []
    remaining = iter(lists.values())
    while some := list(islice(remaining, AT_ONCE)):
        pairs = [list(listed.items() if isinstance(listed, Mapping) else listed) for listed in some]
        names = [name for listed in pairs for name, _ in listed]
        sizes += [len(listed) for listed in pairs]
        rows.append(documents.rows_of(names).astype(np.uint32))
        if names:
            values.append(np.array([value for listed in pairs for _, value in listed]))
    arrays = (rows_of(queries, list(lists)), np.cumsum(sizes, dtype=np.int64), np.concatenate(rows))
    for name, array in zip(NAMES, (*arrays, np.concatenate(values)), strict=True):
        np.save(folder / f"{name}.npy", array)
