"""Read JSON files that are one value: a list of rows, an object that holds such a list, or columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from data.formats.file_format import FileFormat, Record
from data.formats.jsonl import as_row, parse_json, read_lines
from data.formats.layouts import FIELDS, is_known
from data.formats.row_error import RowError
from data.formats.text_file import plain_name, read_text, with_compressions

SPLIT = ({"columns", "data"}, {"columns", "data", "index"})  # keys of pandas' orient="split"


def read_json_document(file: Path) -> Iterator[Record]:
    """The (place, row) of every row of the value. Raises ValueError if the value is malformed, RowError if a row
    is, after which the next ones can be read."""
    return map(partial(_entry, file), enumerate(rows_of(file, parse_json(str(file), read_text(file))), start=1))


def _entry(file: Path, numbered: tuple[int, Any]) -> Record:
    where = f"{file}: entry {numbered[0]}"
    try:
        return where, as_row(where, numbered[1])
    except ValueError as error:
        raise RowError(where, str(error)) from None


def is_json_document(file: Path) -> bool:
    """Whether the file is one JSON value, and not one row a line: its first line is no value of its own, or the only
    one and more than a row."""
    first, *others = [line for _, line in islice(read_lines(file), 2)] or [""]
    try:
        value = json.loads(first)
    except ValueError:
        return first.strip() == "{" or first.lstrip().startswith("[")
    holds_rows = isinstance(value, list) or (
        plain_name(file).endswith(".json") and isinstance(value, dict) and rows_of(file, value) != [value]
    )
    return not others and holds_rows


def rows_of(file: Path, value: Any) -> list[Any]:
    """The rows of a value: its entries; those of the list of objects that it holds; its columns, read as rows (as
    pandas and datasets write them); else the object itself.

    Raises ValueError if it holds several lists of objects, or rows whose number of cells differs from the columns'.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{file}: expected a list of JSON objects, got {type(value).__name__}")
    if value.keys() in SPLIT and isinstance(value["columns"], list) and isinstance(value["data"], list):
        return _split(file, value["columns"], value["data"])
    lists = {key: part for key, part in value.items() if _is_list_of_objects(part)}
    is_row = bool(FIELDS.keys() & value.keys())
    if len(lists) > 1 and not is_row:
        raise ValueError(f"{file}: it holds rows under {' and '.join(lists)}: write each list to a file of its own")
    if lists:
        return [value] if is_row else next(iter(lists.values()))
    columns = list(value.values())
    if columns and all(isinstance(column, list) for column in columns) and len(set(map(len, columns))) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if columns and all(isinstance(column, Mapping) for column in columns):
        return _table(value)
    return [value]


def _split(file: Path, columns: list[Any], rows: list[Any]) -> list[Any]:
    """The rows of pandas' orient="split". The levels of the names of a column are joined."""
    names = [" ".join(map(str, name)) if isinstance(name, list) else str(name) for name in columns]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != len(names):
            got = len(row) if isinstance(row, list) else type(row).__name__
            raise ValueError(f"{file}: entry {number}: expected {len(names)} cells ({', '.join(names)}), got {got}")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _table(value: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """The rows of an object of objects: rows by their index (pandas' orient="index"), or columns, whose cells are by
    the index. Names of columns are known; else numbers are the index, or what there is more of."""
    inner = dict.fromkeys(key for part in value.values() for key in part)
    same = all(part.keys() == inner.keys() for part in value.values())
    outer, cells = (all(key.isdecimal() for key in keys) for keys in (value, inner))
    known, known_cells = (sum(map(is_known, keys)) for keys in (value, inner))
    if (outer and not cells) or (same and outer == cells and (known_cells, len(value)) > (known, len(inner))):
        return list(value.values())
    return [{name: column[key] for name, column in value.items()} for key in inner] if same else [value]


def _is_list_of_objects(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and all(isinstance(row, Mapping) for row in part)


FORMAT = FileFormat(with_compressions(".json", ".jsonl"), read_json_document, is_json_document)
