"""Read csv and tsv files with a header, plain or compressed."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from data.formats.file_format import FileFormat, Record
from data.formats.text_file import plain_name, text_lines, with_compressions

SEPARATORS = {".csv": ",;\t", ".tsv": "\t,;"}  # the first that the header has separates the columns


def read_delimited(file: Path) -> Iterator[Record]:
    """Read every row as (where, {column: value}). Values are strings, None for an empty cell.

    Quoted cells may contain line breaks, also blank lines. In a tsv file a quote is an ordinary character, unless the
    file cannot be read so (`_is_quoted`). Raises ValueError, which names the line.
    """
    header = next((line for _, line in text_lines(file) if line.strip()), "")
    separator = _separator(file, header)
    quoted = separator != "\t" or _is_quoted(file, header)
    csv.field_size_limit(sys.maxsize)  # documents are longer than 131,072 characters
    places: list[str] = []

    def lines() -> Iterator[str]:
        for number, line in text_lines(file):
            places.append(f"{file}:{number}")
            yield line + "\n"

    rows = csv.reader(
        lines(), delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    names: list[str] = []
    try:
        for cells in rows:
            place, number = places[0], len(cells)
            places.clear()
            if not any(cell.strip() for cell in cells):  # a blank line between rows
                continue
            if not names:
                names = _checked(place, cells)
                continue
            if number != len(names):
                raise ValueError(f"{place}: expected {len(names)} cells ({', '.join(names)}), got {number}")
            values = cells if quoted else [_unquoted(cell) for cell in cells]
            yield place, {name: value or None for name, value in zip(names, values, strict=True)}
    except csv.Error as error:
        raise ValueError(f"{places[0] if places else file}: malformed csv ({error})") from None


def _separator(file: Path, header: str) -> str:
    """The character between the cells. Spreadsheets write semicolons where the comma is a decimal mark."""
    usual = next(separators for suffix, separators in SEPARATORS.items() if plain_name(file).endswith(suffix))
    return next((separator for separator in usual if separator in header), usual[0])


def _is_quoted(file: Path, header: str) -> bool:
    """Whether cells of a tsv file are in quotes: its header is, or the first line with another number of cells than the
    header is part of a row that has the right number if quotes hold line breaks and tabs."""
    names = header.split("\t")
    if all(len(name) > 1 and name[0] == name[-1] == '"' for name in names):
        return True
    numbers = (number for number, line in text_lines(file) if line.strip() and line.count("\t") != len(names) - 1)
    irregular = next(numbers, None)
    if irregular is None:
        return False
    rows = csv.reader((f"{line}\n" for _, line in text_lines(file)), delimiter="\t", strict=True)
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
    """The names of the columns, without spaces around them. Raises ValueError if one occurs twice."""
    names = [name.strip() for name in header]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{place}: the header names the column {repeated[0]!r} twice: rename one of them")
    return names


FORMAT = FileFormat(with_compressions(".csv", ".tsv"), read_delimited)
