"""Group the rows of files of any size by query.

Rows are divided by a hash of their query among temporary files. Each is grouped in memory by the code that groups small
data, and the lists of all are merged in the order in which queries first appear. What grows with the number of rows is
tens of bytes for each text.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from data.formats.columns import ListRecord
from data.formats.grouping import START, Grouping, Noted, QueryGroup, query_id_of
from data.formats.skipped import SkippedRows
from data.progress import show_progress
from data.store.text_pool import TextPool
from data.store.texts import StoredTexts, write_texts
from data.views import View

NUM_PARTS = 256  # files among which rows are divided
ROWS_AT_ONCE = 20_000  # rows that are divided at once, unless their texts are long
CHARACTERS_AT_ONCE = 2**25
LISTS_AT_ONCE = 200  # lists of each file that are in memory while the lists of all are merged

Numbered = tuple[int, list[int], ListRecord]  # number of the first document, rows of the documents' texts, the row
Encoded = tuple[int, str, str]  # number of the first document, query id, the list
READ_JSON = json.JSONDecoder().raw_decode  # half the time of json.loads
FIELDS = tuple(part.name for part in fields(ListRecord))


class StoredGroups(View[QueryGroup]):
    """The lists of queries in the order in which these first appear, each made when it is asked for."""

    def __init__(self, texts: StoredTexts) -> None:
        self._texts = texts

    def stream(self) -> Iterator[tuple[str, QueryGroup]]:
        return ((query_id, _decoded(text)) for query_id, text in self._texts.items())

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, key: object) -> bool:
        return key in self._texts

    def __getitem__(self, key: str) -> QueryGroup:
        return _decoded(self._texts[key])


class GroupingOnDisk:
    """Groups the rows of one split after the other, as `group_by_query` does, in a folder that its owner removes.

    Documents of all splits are numbered in the order in which rows name them.
    """

    def __init__(self, folder: Path, relevant_from: float | None, skipped: SkippedRows) -> None:
        self._folder = folder
        self._relevant_from, self._skipped = relevant_from, skipped
        self._pool = TextPool(folder / "texts")
        self._next = 0  # the number of the next document

    def group(self, split: str, records: Iterable[ListRecord]) -> StoredGroups:
        """The lists of a split. Raises the ValueError of the first row that is wrong, unless such rows are noted."""
        start, before = self._next, len(self._skipped.rows)
        places: list[int] = []  # of the rows that cannot be read: the number of the document that follows
        unreadable = None
        try:
            for batch in _batches(self._numbered(records, before, places)):
                self._divide(split, batch)
        except (ValueError, OSError) as error:
            if self._skipped.skips:
                raise
            unreadable = error  # an earlier row may be wrong too
        noted, dropped = Noted(), set[int]()
        is_listed = np.zeros(len(self._pool.hashes), dtype=bool)
        conflicts: list[tuple[int, ListRecord, ValueError]] = []
        files = sorted(self._folder.glob(f"{split}-*.rows"))
        parts = [
            self._group_part(rows, noted, dropped, is_listed, conflicts)
            for rows in show_progress(files, "grouping rows by query", len(files), "parts")
        ]
        self._leave_out(before, places, conflicts)
        if unreadable is not None:
            raise unreadable
        self._forget(dropped, is_listed, start)
        noted.announce()
        merged = heapq.merge(*map(_read_lists, parts))
        groups = write_texts(self._folder / f"{split}.lists", ((query_id, text) for _, query_id, text in merged))
        for part in parts:
            part.unlink()
        return StoredGroups(groups)

    def documents(self, folder: Path) -> tuple[StoredTexts, np.ndarray]:
        """Write the documents of all lists to a folder. Also the keys of their texts (`text_key`)."""
        return self._pool.finish(folder)

    def _numbered(
        self, records: Iterable[ListRecord], before: int, places: list[int]
    ) -> Iterator[tuple[int, ListRecord]]:
        """The rows with the numbers of their first documents. `places` is filled."""
        skipped = self._skipped.rows
        remaining = iter(records)
        while True:
            record = next(remaining, None)
            places += [self._next] * (len(skipped) - before - len(places))
            if record is None:
                return
            yield self._next, record
            self._next += len(record.documents)

    def _divide(self, split: str, batch: Sequence[tuple[int, ListRecord]]) -> None:
        """Write rows to the files of their queries. Of their documents, only the start is kept, for messages."""
        rows = self._pool.add([text for _, record in batch for text in record.documents]).tolist()
        parts: dict[int, list[tuple[Any, ...]]] = {}
        start = 0
        for number, record in batch:
            end = start + len(record.documents)
            shown = [] if record.kind == "tuples" else [text[: START + 1] for text in record.documents]
            values = {name: getattr(record, name) for name in FIELDS} | {"documents": shown}
            part = int(query_id_of(record)[1:], 16) % NUM_PARTS
            parts.setdefault(part, []).append((number, rows[start:end], *values.values()))
            start = end
        for part, members in parts.items():
            with (self._folder / f"{split}-{part:03d}.rows").open("ab") as file:
                file.write(_line(members))

    def _group_part(
        self,
        rows: Path,
        noted: Noted,
        dropped: set[int],
        is_listed: np.ndarray,
        conflicts: list[tuple[int, ListRecord, ValueError]],
    ) -> Path:
        """Group the rows of one file, and return the file of their lists. It adds to what is noted, to the hashes of
        texts that are dropped from a list, to the rows of those that stay in one, and to the rows that are wrong."""
        grouping = Grouping(self._relevant_from, noted)
        hashes, keys, name = self._pool.hashes, self._pool.keys, self._pool.name
        row_of: dict[str, int] = {}
        first_of: dict[str, int] = {}
        used: list[int] = []
        numbers: list[int] = []
        for number, own, record in _read_rows(rows):
            ids = [name(int(hashes[row])) for row in own]
            try:
                query_id = grouping.add(record, ids)
            except ValueError as error:
                conflicts.append((number, record, error))
                if not self._skipped.skips:
                    break
                continue
            first_of.setdefault(query_id, number)
            row_of.update(zip(ids, own, strict=True))
            used += own
            numbers += range(number, number + len(own))
        rows.unlink()
        self._pool.note(np.array(used, dtype=np.int64), np.array(numbers, dtype=np.int64))
        dropped.update(int(hashes[row_of[document]]) for document in grouping.drop_copies(lambda d: keys[row_of[d]]))
        is_listed[[row_of[document] for entry in grouping.lists.values() for document in entry.labels]] = True
        lists = rows.with_suffix(".lists")
        with lists.open("wb") as file:
            encoded = [(first_of[query_id], query_id, _encoded(entry)) for query_id, entry in grouping.lists.items()]
            for start in range(0, len(encoded), LISTS_AT_ONCE):
                file.write(_line(encoded[start : start + LISTS_AT_ONCE]))
        return lists

    def _leave_out(
        self, before: int, places: Sequence[int], conflicts: Sequence[tuple[int, ListRecord, ValueError]]
    ) -> None:
        """Note the rows with conflicts among those that cannot be read, in the order of all. Raises the ValueError of
        the first one if rows may not be left out."""
        rows = self._skipped.rows
        read = [(place, 0, row) for place, row in zip(places, rows[before:], strict=True)]
        own = SkippedRows(self._skipped.on_error)
        ordered = sorted(conflicts, key=lambda conflict: conflict[0])
        for _, record, error in ordered:
            own.leave_out(record.where, error)
        later = [(number, 1, row) for (number, _, _), row in zip(ordered, own.rows, strict=True)]
        rows[before:] = [row for *_, row in sorted([*read, *later], key=lambda found: found[:2])]

    def _forget(self, dropped: set[int], is_listed: np.ndarray, start: int) -> None:
        """Take back the texts that are dropped from every list of this split and are in none of an earlier one."""
        if not dropped:
            return
        hashes = self._pool.hashes
        is_dropped = np.isin(hashes, np.array(sorted(dropped), dtype=np.int64))
        stay = hashes[is_dropped & (is_listed | self._pool.used_before(start))]
        self._pool.forget(np.flatnonzero(is_dropped & ~np.isin(hashes, stay)))


def _batches(numbered: Iterable[tuple[int, ListRecord]]) -> Iterator[list[tuple[int, ListRecord]]]:
    """Rows that are together in memory. Those before an error are given before it is raised."""
    batch: list[tuple[int, ListRecord]] = []
    num_characters = 0
    error: BaseException | None = None
    remaining = iter(numbered)
    while error is None:
        try:
            member = next(remaining)
        except (StopIteration, ValueError, OSError) as found:
            error = found
        else:
            batch.append(member)
            num_characters += sum(map(len, member[1].documents))
        if batch and (error or len(batch) >= ROWS_AT_ONCE or num_characters >= CHARACTERS_AT_ONCE):
            yield batch
            batch, num_characters = [], 0
    if not isinstance(error, StopIteration):
        raise error


def _read_rows(file: Path) -> Iterator[Numbered]:
    for number, rows, *values in _members(file):
        yield number, rows, ListRecord(*values)


def _read_lists(file: Path) -> Iterator[Encoded]:
    return _members(file)


def _line(members: Sequence[Any]) -> bytes:
    return json.dumps(members).encode() + b"\n"


def _members(file: Path) -> Iterator[Any]:
    """The members of the lists in a file, one line of JSON at a time. The file is open only while a line is read."""
    place, size = 0, file.stat().st_size
    while place < size:
        with file.open("rb") as stream:
            stream.seek(place)
            members = json.loads(stream.readline())
            place = stream.tell()
        yield from members


def _encoded(entry: QueryGroup) -> str:
    scores = list(entry.scores.values())
    return json.dumps(
        [
            *(entry.query, entry.prompt, entry.kind, list(entry.labels), list(entry.labels.values())),
            None if all(map(math.isnan, scores)) else scores,
            *(entry.labelled, entry.has_label_column, entry.weight),
        ]
    )


def _decoded(text: str) -> QueryGroup:
    query, prompt, kind, ids, labels, scores, labelled, has_label_column, weight = READ_JSON(text)[0]
    scores = [math.nan] * len(ids) if scores is None else scores
    return QueryGroup(
        *(query, prompt, kind, dict(zip(ids, labels, strict=True)), dict(zip(ids, scores, strict=True))),
        *(labelled, has_label_column, [weight]),
    )
