"""Texts by id, outside memory: the documents or queries that the rows of a data file name by id."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from data.formats.file_format import Record
from data.formats.layouts import plain_name
from data.formats.skipped import SkippedRows, readable
from data.progress import show_progress

BATCH = 10_000  # rows that are inserted at once
CACHE_KIB = 16 * 1024  # of the database, in memory
ID_COLUMNS = re.compile(r"_?id|(doc|document|passage|corpus|query|question|topic)_?id|pid|qid|did|docno")
TEXT_COLUMNS = (
    *("text", "contents", "content", "segment", "body", "doc", "document", "passage", "query", "question"),
    *("document_text", "passage_text", "query_text"),
)
# Columns that may stand beside id and text in a file of texts.
BESIDE = {"title", "url", "metadata", "score", "source", "lang", "language", "headings", "", "__index_level_0__"}


class TextStore:
    """The texts of some files by id, in a temporary database, which SQLite moves to disk if it is large."""

    def __init__(self, what: str, sources: Sequence[Iterable[Record]], names: str, skipped: SkippedRows) -> None:
        """`what`: documents or queries; `names`: the files, for messages; `skipped` notes wrong rows, if they may be
        left out."""
        self.what, self.names = what, names
        self._sources, self._skipped = sources, skipped
        self._database: sqlite3.Connection | None = None

    def text(self, identifier: str) -> str | None:
        """The text with this id; None if there is none."""
        found = self.open().execute("SELECT text FROM texts WHERE id = ?", (identifier,)).fetchone()
        return None if found is None else found[0]

    def open(self) -> sqlite3.Connection:
        """Read the files, unless they are read already."""
        if self._database is None:
            try:
                self._database = self._read()
            except sqlite3.Error as error:
                raise OSError(
                    f"the texts of {self.names} cannot be kept in a temporary database ({error}): free space in the "
                    "folder for temporary files, or set SQLITE_TMPDIR to another one"
                ) from None
        return self._database

    def _read(self) -> sqlite3.Connection:
        database = sqlite3.connect("", check_same_thread=False)
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute("CREATE TABLE texts (id TEXT PRIMARY KEY, text TEXT, place TEXT)")
        for source in self._sources:
            rows = self._rows(source)
            while batch := list(islice(rows, BATCH)):
                inserted = database.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?, ?)", batch).rowcount
                if inserted < len(batch):
                    self._check_copies(database, batch)
        return database

    def _rows(self, source: Iterable[Record]) -> Iterator[tuple[str, str, str]]:
        columns: dict[tuple[str, ...], tuple[str, str]] = {}
        for where, row in show_progress(readable(iter(source), self._skipped), f"reading {self.what}", unit="rows"):
            try:
                names = tuple(row)
                if names not in columns:
                    columns[names] = _columns_of(where, row)
                yield (*_identified(where, row, *columns[names]), where)
            except ValueError as error:
                self._skipped.leave_out(where, error, is_of_columns=names not in columns)

    def _check_copies(self, database: sqlite3.Connection, batch: Sequence[tuple[str, str, str]]) -> None:
        """Raise ValueError if an id of these rows has another text at an earlier place, unless such rows may be left
        out."""
        for identifier, text, place in batch:
            query = "SELECT text, place FROM texts WHERE id = ?"
            known, first = database.execute(query, (identifier,)).fetchone()
            if known != text:
                error = ValueError(f"{place}: id {identifier!r} has another text at {first}; keep one")
                self._skipped.leave_out(place, error)


def holds_texts(row: Mapping[str, Any]) -> bool:
    """Whether a row is a text with its id, and no list of documents."""
    names = [plain_name(str(name)) for name in row]
    ids = [name for name in names if ID_COLUMNS.fullmatch(name)]
    texts = [name for name in names if name in TEXT_COLUMNS]
    others = set(names) - set(ids) - set(texts) - BESIDE
    return len(ids) == 1 and len(texts) == 1 and not others


def id_of(where: str, column: str, value: Any) -> str:
    """An id, which may be written as a text or as a number. Raises ValueError if it is neither, or empty."""
    if isinstance(value, float) and value.is_integer():  # pandas, if other cells are empty
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or str(value).strip() == "":
        kind = "empty" if value is None or isinstance(value, str) else type(value).__name__
        raise ValueError(f"{where}: {column!r} must be an id (a text or a whole number), got {kind}")
    return str(value).strip()


def _columns_of(where: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """The columns of the id and of the text."""
    plain = {name: plain_name(str(name)) for name in row}
    ids = [name for name in row if ID_COLUMNS.fullmatch(plain[name])]
    texts = [name for name in row if plain[name] in TEXT_COLUMNS]
    if not ids or not texts:
        what, example = ("id", "_id") if not ids else ("text", "text")
        raise ValueError(
            f"{where}: no column of the {what} (it has: {', '.join(map(repr, row)) or 'none'}): name it {example}"
        )
    return ids[0], texts[0]


def _identified(where: str, row: Mapping[str, Any], id_column: str, text_column: str) -> tuple[str, str]:
    """The id, and the text with its title before it."""
    identifier, text, title = id_of(where, id_column, row.get(id_column)), row.get(text_column), row.get("title")
    for column, value in ((text_column, text), ("title", title)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{where}: {column!r} must be a text, got {type(value).__name__}")
    joined = f"{title or ''} {text or ''}".strip()
    if text is None and not title:
        raise ValueError(f"{where}: no value in column {text_column!r}: give the text of id {identifier!r}")
    try:
        joined.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {text_column!r} is not valid Unicode (lone surrogate)") from None
    return identifier, joined
