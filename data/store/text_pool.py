"""The texts of rows on disk, each once, however often rows repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.collection import text_key
from data.hashing import stable_hash, text_hash
from data.store.texts import StoredTexts, TextsWriter, write_texts

NEVER = np.iinfo(np.int64).max


class TextPool:
    """Texts in the order in which they first appear. It needs 40 bytes of memory a text.

    A text has the id of its hash without surrounding white space. Texts that differ in that alone are stored each, and
    share the id. `note` says at which numbers the texts of rows are used: the pool becomes the documents in the order
    of these, the first text of each id.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer = TextsWriter(folder)
        self._rows = _RowsOfHashes()
        self._hashes, self._keys = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        self._first = np.empty(0, np.int64)  # number at which a text is first used
        self._is_exact = True  # no text has surrounding white space

    def add(self, texts: Sequence[str]) -> np.ndarray:
        """Store the texts that are new, and return the rows (int64) of all."""
        hashes = [text_hash(text) for text in texts]
        exact = [
            own if text == text.strip() else stable_hash("with white space", text)
            for own, text in zip(hashes, texts, strict=True)
        ]
        wanted = np.array(exact, dtype=np.int64)
        rows = self._rows.find(wanted)
        unknown = np.flatnonzero(rows < 0)
        _, firsts = np.unique(wanted[unknown], return_index=True)
        new = np.sort(unknown[firsts])
        for place in new.tolist():
            name = self.name(hashes[place])
            if exact[place] != hashes[place]:
                self._is_exact = False
                name += f" {exact[place]}"
            self._writer.add(name, texts[place])
        start = self._rows.size
        self._rows.add(wanted[new], np.arange(start, start + len(new)))
        self._hashes.append(np.array([hashes[place] for place in new.tolist()], dtype=np.int64))
        self._keys.append(np.fromiter((text_key(texts[place]) for place in new.tolist()), np.int64, len(new)))
        rows[unknown] = self._rows.find(wanted[unknown])
        return rows

    @staticmethod
    def name(value: int) -> str:
        """The id of a text with that hash."""
        return f"d{value:016x}"

    @property
    def hashes(self) -> np.ndarray:
        """The hash of each row's text, which rows of equal texts share."""
        return _joined(self._hashes)

    @property
    def keys(self) -> np.ndarray:
        """The key (`text_key`) of each row's text."""
        return _joined(self._keys)

    def note(self, rows: np.ndarray, numbers: np.ndarray) -> None:
        """Note at which numbers the texts of these rows are used."""
        missing = self._rows.size - len(self._first)
        if missing:
            self._first = np.concatenate([self._first, np.full(missing, NEVER)])
        np.minimum.at(self._first, rows, numbers)

    def used_before(self, number: int) -> np.ndarray:
        """Whether each row's text is used at a lower number."""
        return self._first < number

    def forget(self, rows: np.ndarray) -> None:
        """Take back that the texts of these rows are used."""
        self._first[rows] = NEVER

    def finish(self, folder: Path) -> tuple[StoredTexts, np.ndarray]:
        """The texts that are used, in a folder, and their keys (`text_key`)."""
        twice = self._writer.finish()
        assert twice is None, twice
        order = self._order()
        folder.parent.mkdir(parents=True, exist_ok=True)
        if self._is_exact and np.array_equal(order, np.arange(self._rows.size)):
            self._folder.rename(folder)
            return StoredTexts(folder), self.keys
        pool, hashes = StoredTexts(self._folder), self.hashes
        used = ((self.name(int(hashes[row])), pool.cell(int(row), 1)) for row in order)
        return write_texts(folder, used), self.keys[order]

    def _order(self) -> np.ndarray:
        """The rows that are used in the order of their numbers, the first of each id."""
        used = np.flatnonzero(self._first < NEVER)
        used = used[np.argsort(self._first[used], kind="stable")]
        if self._is_exact:
            return used
        _, firsts = np.unique(self.hashes[used], return_index=True)
        return used[np.sort(firsts)]


class _RowsOfHashes:
    """{hash: row} in sorted arrays, each of which is at least twice as long as the next: 16 bytes an entry."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The rows of hashes; -1 for those that are unknown."""
        found = np.full(len(hashes), -1, dtype=np.int64)
        for known, rows in self._parts:
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            is_here = known[places] == hashes
            found[is_here] = rows[places[is_here]]
        return found

    def add(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Add hashes that are unknown."""
        if not len(hashes):
            return
        self.size += len(hashes)
        self._parts.append((hashes, rows))
        while len(self._parts) > 1 and len(self._parts[-2][0]) < 2 * len(self._parts[-1][0]):
            (first, first_rows), (last, last_rows) = self._parts[-2:]
            self._parts[-2:] = [(np.concatenate([first, last]), np.concatenate([first_rows, last_rows]))]
        joined, joined_rows = self._parts[-1]
        order = np.argsort(joined, kind="stable")
        self._parts[-1] = joined[order], joined_rows[order]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if len(parts) > 1:
        parts[:] = [np.concatenate(parts)]
    return parts[0]
