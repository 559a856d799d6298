"""Texts by id in memory-mapped Arrow files: a mapping that needs no memory for what is not read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import xxhash

from data.collection import content_hash
from data.progress import show_progress

Entry = tuple[str, str, str]  # the place of a row, an id and a text
PART_ROWS = 100_000  # rows of one file, at most: what a killed build loses
PART_BYTES = 2**28  # of text in one file, so that long documents do not fill the memory
SCHEMA = pa.schema({"id": pa.large_string(), "text": pa.large_string()})
BATCH = 4096  # rows that are converted at once in an iteration


class StoredTexts(Mapping[str, str]):
    """The texts of a folder written by `TextsWriter`: {id: text} in the order of the rows.

    A text is found by the hash of its id in a sorted array. Files and arrays are memory-mapped: processes of one
    machine share their pages, and the kernel may drop them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        maps = [pa.memory_map(str(path)) for path in part_files(folder)]
        parts = [pa.ipc.open_file(file).read_all().combine_chunks() for file in maps]
        self._parts = [(part.column("id").chunk(0), part.column("text").chunk(0)) for part in parts if len(part)]
        self._starts = np.cumsum([0, *(len(ids) for ids, _ in self._parts)])
        self._hashes = np.load(folder / "hashes.npy", mmap_mode="r")
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")
        if len(self._rows) != len(self):  # else rows would have the texts of others
            raise ValueError(f"{folder} has {len(self)} of its {len(self._rows)} texts")
        meta = json.loads((folder / "texts.json").read_text())
        self.digest: str = meta["digest"]
        self._are_unique: bool = meta["unique_hashes"]  # no two ids share a hash
        self.ids, self.texts = Column(self, 0), Column(self, 1)

    def __reduce__(self) -> tuple[type[StoredTexts], tuple[Path]]:
        return StoredTexts, (self.folder,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, key: str) -> str:
        row = self.find(key)
        if row is None:
            raise KeyError(key)
        return self.cell(row, 1)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.find(key) is not None

    def values(self) -> Sequence[str]:  # type: ignore[override]  # a sequence is more than the view of a mapping
        return self.texts

    def items(self) -> Iterable[tuple[str, str]]:  # type: ignore[override]
        return zip(self.ids, self.texts, strict=True)

    def cell(self, row: int, column: int) -> str:
        """The id (0) or the text (1) of a row."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1 if len(self._parts) > 1 else 0
        return self._parts[part][column][row - int(self._starts[part])].as_py()

    def find(self, key: str) -> int | None:
        """The row of an id; None if there is no such id."""
        value = np.uint64(_hash(key))
        place = int(np.searchsorted(self._hashes, value))
        while place < len(self._hashes) and self._hashes[place] == value:  # different ids may share a hash
            row = int(self._rows[place])
            if self.cell(row, 0) == key:
                return row
            place += 1
        return None

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """The rows (int64) of known ids."""
        if not self._are_unique:
            return np.array([self.find(name) for name in ids], dtype=np.int64)
        hashes = np.fromiter(map(_hash, ids), dtype=np.uint64, count=len(ids))
        return self._rows[np.searchsorted(self._hashes, hashes)].astype(np.int64)

    def part_values(self, column: int) -> Iterator[pa.Array]:
        """The ids (0) or texts (1) in pieces."""
        for part in self._parts:
            for start in range(0, len(part[column]), BATCH):
                yield part[column].slice(start, BATCH)


class Column(Sequence[str]):
    """The ids or the texts of all rows, read when they are asked for."""

    def __init__(self, stored: StoredTexts, column: int) -> None:
        self.stored, self.column = stored, column

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.stored.cell(row, self.column) for row in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(index)
        return self.stored.cell(row, self.column)

    def __iter__(self) -> Iterator[str]:
        for piece in self.stored.part_values(self.column):
            yield from piece.to_pylist()


def ids_of(texts: Mapping[str, str]) -> Sequence[str]:
    """The ids by row."""
    return texts.ids if isinstance(texts, StoredTexts) else list(texts)


def texts_of(texts: Mapping[str, str]) -> Sequence[str]:
    """The texts by row."""
    return texts.texts if isinstance(texts, StoredTexts) else list(texts.values())


def texts_digest(texts: Mapping[str, str]) -> str:
    """A hash of ids and texts in their order; of stored ones it was computed when they were written."""
    return texts.digest if isinstance(texts, StoredTexts) else content_hash(texts)


def rows_of(texts: Mapping[str, str], ids: Sequence[str]) -> np.ndarray:
    """The rows (int64) of known ids."""
    if not isinstance(texts, StoredTexts):
        places = {name: row for row, name in enumerate(texts)}
        return np.fromiter((places[name] for name in ids), dtype=np.int64, count=len(ids))
    return texts.rows_of(ids)


def part_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder in their order."""
    return sorted(folder.glob("part-*.arrow"))


class TextsWriter:
    """Writes texts to a folder. A build that was killed goes on with the first row that is in no whole file.

    `num_written` is the number of rows that the folder already has: the caller adds the rows that follow.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.num_parts = len(part_files(folder))
        self.num_written = sum(
            pa.ipc.open_file(pa.memory_map(str(file))).read_all().num_rows for file in part_files(folder)
        )
        self._ids: list[str] = []
        self._texts: list[str] = []
        self._bytes = 0

    def add(self, name: str, text: str) -> None:
        self._ids.append(name)
        self._texts.append(text)
        self._bytes += len(text)
        if len(self._ids) >= PART_ROWS or self._bytes >= PART_BYTES:
            self._flush()

    def finish(self) -> str | None:
        """Write the rest and the index of ids. Returns an id that occurs twice, and nothing is finished; or None."""
        if self._ids or not self.num_parts:
            self._flush()
        hashes = np.concatenate([_hash_ids(file) for file in part_files(self.folder)])
        rows = np.argsort(hashes, kind="stable")
        hashes = hashes[rows]
        np.save(self.folder / "rows.npy", rows.astype(np.uint32))
        np.save(self.folder / "hashes.npy", hashes)
        file, meta = (
            self.folder / "texts.json",
            {"digest": "", "unique_hashes": bool((hashes[1:] != hashes[:-1]).all())},
        )
        file.write_text(json.dumps(meta))
        stored = StoredTexts(self.folder)
        if (twice := _repeated(stored, hashes, rows)) is not None:
            return twice
        file.write_text(json.dumps({**meta, "digest": content_hash(stored.items())}))
        return None

    def _flush(self) -> None:
        batch = pa.record_batch(
            [pa.array(self._ids, pa.large_string()), pa.array(self._texts, pa.large_string())], SCHEMA
        )
        path = self.folder / f"part-{self.num_parts:05d}.arrow"
        temporary = path.with_suffix(".tmp")
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            writer.write_batch(batch)
        os.replace(temporary, path)
        self.num_parts, self.num_written = self.num_parts + 1, self.num_written + len(self._ids)
        self._ids, self._texts, self._bytes = [], [], 0


def write_rows(folder: Path, entries: Callable[[], Iterator[Entry]]) -> None:
    """Write the id and text of each entry, after those that the folder already has. All entries are read, in any case.

    Raises ValueError, which names both places, if an id occurs twice.
    """
    writer = TextsWriter(folder)
    new = islice(entries(), writer.num_written, None)
    for _, name, text in show_progress(new, "reading documents", unit="documents"):
        writer.add(name, text)
    if (twice := writer.finish()) is not None:
        shutil.rmtree(folder)
        first, second, *_ = (where for where, name, _ in entries() if name == twice)
        raise ValueError(f"{second}: duplicate id {twice!r} (first at {first}); ids must be unique")


def write_texts(folder: Path, texts: Iterable[tuple[str, str]]) -> StoredTexts:
    """Write texts with different ids, and open them."""
    writer = TextsWriter(folder)
    for name, text in show_progress(texts, f"storing {folder.name}", unit="texts"):
        writer.add(name, text)
    twice = writer.finish()
    assert twice is None, twice
    return StoredTexts(folder)


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode(errors="surrogatepass"))  # of a surrogate: no stored id


def _hash_ids(file: Path) -> np.ndarray:
    ids: Any = pa.ipc.open_file(pa.memory_map(str(file))).read_all().column("id")
    values = (_hash(name) for chunk in ids.chunks for name in chunk.to_pylist())
    return np.fromiter(values, dtype=np.uint64, count=len(ids))


def _repeated(stored: StoredTexts, hashes: np.ndarray, rows: np.ndarray) -> str | None:
    """An id of several rows; None if there is none."""
    for place in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
        first = stored.cell(int(rows[place]), 0)
        if first == stored.cell(int(rows[place + 1]), 0):
            return first
    return None
