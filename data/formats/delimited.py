"""Read csv and tsv files with a header, plain or compressed."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data.formats.file_format import FileFormat, HeadedRow, Record
from data.formats.layouts import is_known
from data.formats.row_error import RowError
from data.formats.rows import DecimalComma
from data.formats.text_file import plain_name, text_lines, with_compressions

SEPARATORS = {".csv": ",;\t|", ".tsv": "\t,;|"}  # of those that fit a file equally well the first is taken
SAID = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # Excel's first line, which says the separator
PROBED = 1000  # lines that are read to find the separator


@dataclass(frozen=True)
class Table:
    """How the rows of a file are separated, and the names of their cells with their place."""

    separator: str
    quoted: bool
    names: list[str]
    place: str = ""

    def record(self, placed: tuple[str, list[str]]) -> Record:
        """The row of these cells. Raises RowError if it has more or fewer than the header."""
        place, cells = placed
        if len(cells) != len(self.names):
            raise RowError(
                place, f"{place}: expected {len(self.names)} cells ({', '.join(self.names)}), got {len(cells)}"
            )
        values = cells if self.quoted else [_unquoted(cell) for cell in cells]
        if self.separator == ";":
            values = [DecimalComma(cell) if DecimalComma.PATTERN.fullmatch(cell) else cell for cell in values]
        return place, HeadedRow(_row(place, self.names, values), self.place)


def read_delimited(file: Path) -> Iterator[Record]:
    """The (where, {column: value}) of every row. Values are strings, None for an empty cell.

    Quoted cells may contain line breaks, also blank lines. In a tsv file a quote is an ordinary character, unless the
    file cannot be read so (`_is_quoted`). Raises RowError for a row of another length, after which the next ones can be
    read, and ValueError, which names the line, if the file is malformed.
    """
    csv.field_size_limit(sys.maxsize)  # documents are longer than 131,072 characters
    header, separator = _header(file)
    quoted = separator != "\t" or _is_quoted(file, header)
    rows = _placed_cells(file, separator, quoted)
    place, names = next(rows, (str(file), []))
    return map(Table(separator, quoted, _checked(place, names), place).record, rows)


def _placed_cells(file: Path, separator: str, quoted: bool) -> Iterator[tuple[str, list[str]]]:
    """The cells of every row that is not blank, with the place of its first line."""
    places: list[str] = []

    def lines() -> Iterator[str]:
        for number, line in _table(file):
            places.append(f"{file}:{number}")
            yield line + "\n"

    rows = csv.reader(
        lines(), delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    try:
        for cells in rows:
            place = places[0]
            places.clear()
            if any(cell.strip() for cell in cells):
                yield place, cells
    except csv.Error as error:
        reason = str(error)
        if "new-line character" in reason:
            reason = "a carriage return outside quotes, as old Macs end lines: convert it, tr '\\r' '\\n' < FILE"
        elif "unexpected end of data" in reason:
            reason = "a quote that is opened here is never closed: close it, and double the quotes inside a cell"
        raise ValueError(f"{places[0] if places else file}: malformed csv ({reason})") from None
    except RowError as error:  # the lines after it may be part of a quoted cell
        raise ValueError(str(error)) from None


def _row(place: str, names: Sequence[str], values: Sequence[str]) -> dict[str, str | None]:
    """The row by names of columns. Columns without a name are one: the first of the index, if they come before the
    others, else the one that is not empty. Raises RowError if that is not one."""
    row = {name: value or None for name, value in zip(names, values, strict=True) if name}
    lead = next((place for place, name in enumerate(names) if name), len(names))  # columns of the index
    blank = [value for name, value in zip(names[lead:], values[lead:], strict=True) if not name]
    filled = [value for value in blank if value.strip()]
    if not blank and not lead:
        return row
    if not filled and lead:
        return {"": values[0] or None, **row}
    if filled and (len(blank) > 1 or lead):
        raise RowError(place, f"{place}: the column of the cell {filled[0]!r} has no name: name it in the header")
    return {**row, "": filled[0] if filled else None}


def _table(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of the file with their numbers, without Excel's line that says the separator."""
    lines = text_lines(file)
    for number, line in lines:
        if number > 1 or not SAID.fullmatch(line):
            yield number, line


def _header(file: Path) -> tuple[str, str]:
    """The first line that is not blank, and the separator of the cells: what the file says (`SAID`), else that by which
    most rows have as many cells as the header. Spreadsheets write semicolons where the comma is a decimal mark."""
    header = next((line for _, line in _table(file) if line.strip()), "")
    first = next((line for _, line in text_lines(file)), "")
    if said := SAID.fullmatch(first):
        return header, said[1]
    usual = next(separators for suffix, separators in SEPARATORS.items() if plain_name(file).lower().endswith(suffix))
    found = [separator for separator in usual if separator in header]
    if len(found) > 1:
        lines = [f"{line}\n" for _, line in islice(_table(file), PROBED)]
        found.sort(key=lambda separator: _fit(lines, separator), reverse=True)  # stable: the usual order among equals
    return header, next(iter(found), usual[0])


def _fit(lines: Iterable[str], separator: str) -> tuple[float, int]:
    """How well lines are separated so: the share of rows with as many cells as the header, and the number of columns
    whose names are known."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows += csv.reader(
            lines, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
        )
    header, *others = [cells for cells in rows if any(cell.strip() for cell in cells)] or [[]]
    share = sum(len(cells) == len(header) for cells in others) / max(len(others), 1)
    return (share if len(header) > 1 else 0.0), sum(map(is_known, header))


def _is_quoted(file: Path, header: str) -> bool:
    """Whether cells of a tsv file are in quotes: its header is, or the first line with another number of cells than the
    header is part of a row that has the right number if quotes hold line breaks and tabs."""
    names = header.split("\t")
    if all(len(name) > 1 and name[0] == name[-1] == '"' for name in names):
        return True
    numbers = (number for number, line in _table(file) if line.strip() and line.count("\t") != len(names) - 1)
    irregular = next(numbers, None)
    if irregular is None:
        return False
    rows = csv.reader((f"{line}\n" for _, line in _table(file)), delimiter="\t", strict=True)
    try:
        for cells in rows:
            if cells and len(cells) != len(names):
                return False
            if rows.line_num >= irregular:
                return True
    except csv.Error:
        pass
    return False


def _unquoted(cell: str) -> str:
    """The text of a cell of a tsv file. One in quotes whose own quotes are all doubled is as pandas writes a text with
    quotes."""
    inner = cell[1:-1]
    if len(cell) < 4 or not cell[0] == cell[-1] == '"' or '""' not in inner or '"' in inner.replace('""', ""):
        return cell
    return inner.replace('""', '"')


def _checked(place: str, header: list[str]) -> list[str]:
    """The names of the columns, without spaces around them; index columns of pandas have none. Raises ValueError if a
    name occurs twice."""
    names = [name.strip() for name in header]
    repeated = [name for name in names if name and names.count(name) > 1]
    if repeated:
        raise ValueError(f"{place}: the header names the column {repeated[0]!r} twice: rename one of them")
    return names


FORMAT = FileFormat(with_compressions(".csv", ".tsv"), read_delimited)
