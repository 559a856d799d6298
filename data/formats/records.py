"""Convert the rows of data files to lists of documents. Each row's layout is recognised by the names of its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from data.formats.columns import ListRecord, Row
from data.formats.file_format import Record, place_of_columns
from data.formats.layouts import Layout, is_known
from data.formats.rows import plain_row
from data.formats.skipped import SkippedRows, readable

LOOKAHEAD = 1000  # rows whose columns a message about columns takes into account


def read_records(
    rows: Iterable[Record],
    mapping: Mapping[str, str],
    ignored: Iterable[str] = (),
    others: Iterable[Record] = (),
    skipped: SkippedRows | None = None,
) -> Iterator[ListRecord]:
    """Convert every row, of any layout. `mapping` gives the columns of fields that are not recognised; `skipped` notes
    wrong rows, if they may be left out.

    Raises ValueError, which names file and line, for a wrong row, or if no row has a column of `mapping` or `ignored`,
    nor one of the first `others` (rows of other splits, which have the same settings).
    """
    skipped = SkippedRows() if skipped is None else skipped
    layouts: dict[tuple[str, ...], Layout] = {}
    refused: dict[tuple[str, ...], str] = {}
    named = {*mapping.values(), *ignored}
    present: dict[str, None] = {}
    left, where = readable(iter(rows), skipped), ""
    for where, row in left:
        present |= dict.fromkeys(row)
        plain = plain_row(row, named, is_known)
        names, place = tuple(plain), place_of_columns(where, row)
        try:
            if names in refused:
                raise ValueError(f"{place}: {refused[names]}")
            if names not in layouts:
                present |= dict.fromkeys(names)
                ahead = () if skipped.on_error == "skip" else _next(left)  # rows that are read ahead are lost
                later = (tuple(plain_row(row, named, is_known)) for row in ahead)
                mistake = partial(_mistake, where, plain)
                layouts[names] = Layout.recognise(place, names, mapping, ignored, mistake=mistake, later=later)
            record = Row(where, plain, layouts[names]).record()
        except ValueError as error:
            skipped.leave_out(where, error, is_of_columns=names not in layouts)
            if names not in layouts:
                refused[names] = str(error).removeprefix(f"{place}: ")
        else:
            yield record
    if not layouts or named <= present.keys():
        return
    absent = _absent_from(others, named - present.keys(), lambda row: plain_row(row, named, is_known))
    settings = [*(f"columns.{field}={column}" for field, column in mapping.items()), *(f"ignore={n}" for n in ignored)]
    for text in settings:
        if text.partition("=")[2] in absent:
            raise ValueError(f"data.{text} is no column of {where}: columns are {', '.join(present)}")


def _absent_from(
    rows: Iterable[Record], names: set[str], plain: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> set[str]:
    """Return those of the columns `names` that no row has, up to a row that cannot be read."""
    absent = set(names)
    with suppress(ValueError):
        for _, row in rows:
            absent -= {*row, *plain(row)}
            if not absent:
                break
    return absent


def _mistake(where: str, row: Mapping[str, Any], layout: Layout) -> str:
    return Row(where, row, layout).mistake


def _next(rows: Iterator[Record]) -> Iterator[Mapping[str, Any]]:
    """Some of the rows that follow, up to one that cannot be read."""
    with suppress(ValueError):
        for _, row in islice(rows, LOOKAHEAD):
            yield row
