"""Read csv and tsv files with a header, plain or gzip."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from data.formats.file_format import FileFormat, Record
from data.formats.jsonl import read_lines


def read_delimited(file: Path) -> Iterator[Record]:
    """Read every row as (where, {column: value}). Values are strings, None for an empty cell.

    In a csv file quoted cells may contain line breaks; in a tsv file a quote is an ordinary character. Raises
    ValueError, which names the line.
    """
    separator = "\t" if file.name.removesuffix(".gz").endswith(".tsv") else ","
    csv.field_size_limit(sys.maxsize)  # documents are longer than 131,072 characters
    places: list[str] = []

    def lines() -> Iterator[str]:
        for where, line in read_lines(file):
            places.append(where)
            yield line + "\n"

    rows = csv.reader(
        lines(),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        header = next(rows, [])
        repeated = [name for name in header if header.count(name) > 1]
        if repeated:
            raise ValueError(f"{places[0]}: the header names the column {repeated[0]!r} twice")
        if len(header) == 1 and ";" in header[0] and separator == ",":
            raise ValueError(f"{places[0]}: columns are separated by semicolons: write the file with commas, or as tsv")
        places.clear()
        for cells in rows:
            if len(cells) != len(header):
                raise ValueError(f"{places[0]}: expected {len(header)} cells ({', '.join(header)}), got {len(cells)}")
            yield places[0], {name: cell or None for name, cell in zip(header, cells, strict=True)}
            places.clear()
    except csv.Error as error:
        raise ValueError(f"{places[0] if places else file}: malformed csv ({error})") from None


FORMAT = FileFormat((".csv", ".csv.gz", ".tsv", ".tsv.gz"), read_delimited)
