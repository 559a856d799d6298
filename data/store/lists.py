"""Documents listed with queries, in memory-mapped arrays: judgements, labels and candidates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from data.progress import show_progress
from data.store.texts import StoredTexts, ids_of

Listed = TypeVar("Listed", dict[str, int], dict[str, float], list[tuple[str, float]])
AT_ONCE = 1000  # lists that are Python objects at once
NAMES = ("queries", "ends", "documents", "values")


class StoredLists(Mapping[str, Listed], Generic[Listed]):
    """{query id: its documents with a value each}, as `write_lists` wrote them to a folder.

    `kind` is the type that a value of the mapping has: a dict {document id: value}, or a list of pairs. The names of
    the files begin with `prefix`.
    """

    def __init__(
        self,
        folder: Path,
        queries: Mapping[str, str],
        documents: Mapping[str, str],
        kind: type[Listed],
        prefix: str = "",
    ) -> None:
        self._queries, self._rows = queries, QueryRows(queries)
        self._kind: type[Listed] = kind
        self._ids = ids_of(documents)
        owners, self._ends, self._documents, self._values = (
            np.load(folder / f"{prefix}{name}.npy", mmap_mode="r") for name in NAMES
        )
        self._owners = owners
        self._places: np.ndarray | None = None  # each query has the place of its row
        if not np.array_equal(owners, np.arange(len(queries))):
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
        if row is None or self._places is None:
            return -1 if row is None else row
        return int(self._places[row])


class StoredValues(Mapping[str, float]):
    """{query id: a number}, as `write_values` wrote them to a folder."""

    def __init__(self, folder: Path, queries: Mapping[str, str]) -> None:
        self._queries, self._find = queries, QueryRows(queries).find
        self._owners, self._values = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("queries", "values"))

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[str]:
        ids = ids_of(self._queries)
        return (ids[row] for row in self._owners.tolist())

    def __getitem__(self, query: str) -> float:
        row = self._find(query)
        place = len(self._owners) if row is None else int(np.searchsorted(self._owners, row))
        if place == len(self._owners) or self._owners[place] != row:
            raise KeyError(query)
        return float(self._values[place])


class QueryRows:
    """The rows of query ids."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._stored = queries if isinstance(queries, StoredTexts) else None
        self.find = (
            self._stored.find if self._stored is not None else {name: row for row, name in enumerate(queries)}.get
        )

    def of(self, names: Sequence[str]) -> np.ndarray:
        """The rows (int64) of known ids."""
        if self._stored is not None:
            return self._stored.rows_of(names)
        return np.array([self.find(name) for name in names], dtype=np.int64)


def write_lists(
    folder: Path,
    lists: Mapping[str, Mapping[str, float] | Iterable[tuple[str, float]]],
    queries: Mapping[str, str],
    documents: StoredTexts,
) -> None:
    """Write lists whose queries and documents are known. Integers stay integers."""
    folder.mkdir(parents=True)
    find = QueryRows(queries)
    owners, sizes = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    rows, values = [np.empty(0, dtype=np.uint32)], [np.empty(0, dtype=np.int64)]
    remaining = show_progress(lists.items(), f"storing {folder.name}", len(lists), "lists")
    while some := list(islice(remaining, AT_ONCE)):
        pairs = [list(listed.items() if isinstance(listed, Mapping) else listed) for _, listed in some]
        names = [name for listed in pairs for name, _ in listed]
        owners.append(find.of([query for query, _ in some]))
        sizes.append(np.array(list(map(len, pairs)), dtype=np.int64))
        rows.append(documents.rows_of(names).astype(np.uint32))
        if names:
            values.append(np.array([value for listed in pairs for _, value in listed]))
    arrays: tuple[list[np.ndarray], ...] = (owners, [np.cumsum(np.concatenate(sizes))], rows, values)
    for name, parts in zip(NAMES, arrays, strict=True):
        np.save(folder / f"{name}.npy", np.concatenate(parts))


def write_values(folder: Path, values: Mapping[str, float], queries: Mapping[str, str]) -> None:
    """Write a number for each of some known queries."""
    folder.mkdir(parents=True)
    owners = QueryRows(queries).of(list(values))
    order = np.argsort(owners, kind="stable")
    np.save(folder / "queries.npy", owners[order])
    np.save(folder / "values.npy", np.fromiter(values.values(), dtype=np.float64)[order])
