"""Rows of data files: jsonl, csv, tsv (each also .gz) and parquet, one row after the other, with file and line."""

from __future__ import annotations

import csv
import glob
import sys
from collections.abc import Iterator
from pathlib import Path

from data.formats.jsonl import Record, read_json_lines, read_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


def find_files(key: str, path: str) -> list[Path]:
    """The files of a path: itself, those of a folder, or those that a glob matches. FileNotFoundError names `key`."""
    place = Path(path).expanduser()
    if place.is_file():
        if not place.name.endswith(SUFFIXES):
            raise ValueError(f"{key}={path}: the name must end in {', '.join(SUFFIXES)}")
        return [place]
    found = sorted(place.iterdir()) if place.is_dir() else sorted(map(Path, glob.glob(str(place), recursive=True)))
    files = [file for file in found if file.is_file() and file.name.endswith(SUFFIXES)]
    if not files:
        what = "no file" if place.is_dir() or found else "no such file or folder, and no file matches it"
        raise FileNotFoundError(f"{key}={path}: {what} (names must end in {', '.join(SUFFIXES)})")
    return files


def read_rows(file: Path) -> Iterator[Record]:
    """(where, {column: value}) of every row; values of csv and tsv files are strings, an empty cell is None."""
    name = file.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return read_json_lines(file)
    if name.endswith(".parquet"):
        return _read_parquet(file)
    return _read_separated(file, "\t" if name.endswith(".tsv") else ",")


def _read_separated(file: Path, separator: str) -> Iterator[Record]:
    """Quoted cells may hold line breaks in a csv file; in a tsv file a quote is a character like any other."""
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


def _read_parquet(file: Path) -> Iterator[Record]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file}: no parquet file ({str(error).splitlines()[0]})") from None
    number = 0
    for batch in table.iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield f"{file}:{number}", row
