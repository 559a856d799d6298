"""Read JSONL and other line-oriented files, plain or compressed. Errors name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data.formats.file_format import FileFormat, Record
from data.formats.row_error import RowError
from data.formats.text_file import text_lines, with_compressions


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Read every line that is not blank as (where, line), without its line break. Raises ValueError as
    `data.formats.text_file.text_lines` does."""
    filled = filter(lambda numbered: numbered[1].strip(), text_lines(path))
    return map(partial(_placed, path), filled)  # a generator would end with the first error


def _placed(path: Path, numbered: tuple[int, str]) -> tuple[str, str]:
    return f"{path}:{numbered[0]}", numbered[1]


def read_json_lines(path: Path) -> Iterator[Record]:
    """Read every line of a JSONL file as (where, object). Raises RowError for a line that is none; the next lines can
    be read."""
    return map(_json_row, read_lines(path))


def _json_row(numbered: tuple[str, str]) -> Record:
    where, line = numbered
    try:
        return where, as_row(where, parse_json(where, line))
    except ValueError as error:
        raise RowError(where, str(error)) from None


def as_row(where: str, value: Any) -> dict[str, Any]:
    """The value. Raises ValueError if it is no JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(value).__name__}{_as_object(value)}")
    return value


def parse_json(where: str, text: str) -> Any:
    """Parse the text of one JSON value. Raises ValueError, which starts with `where` (and the line, if there are
    several), if it is malformed."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = where if "\n" not in text else f"{where}:{error.lineno}"
        comma = error.msg == "Extra data" and text[error.pos :].strip() == ","
        cut = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
        hint = ": remove the comma at the end of the line" if comma else ": the text is cut, write it again" * cut
        raise ValueError(
            f"{where}: malformed JSON ({error.msg.removesuffix(' at')} at column {error.colno}){hint}"
        ) from None
    except RecursionError:
        raise ValueError(f"{where}: malformed JSON (nested too deeply)") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"{where}: malformed JSON ({str(error).partition(';')[0]})") from None


def _as_object(record: Any) -> str:
    """How to write a list as an object, whose keys say what its cells are; empty for other values."""
    if not isinstance(record, list):
        return ""
    if not all(isinstance(text, str) for text in record) or len(record) not in (2, 3):
        return ": write each row as an object with names of columns (DataFrame.to_json(FILE, orient='records'))"
    names = ("query", "positive", "negative")[: len(record)]
    return f": write it as {{{', '.join(f'{json.dumps(name)}: ...' for name in names)}}}"


def field_of(where: str, record: Mapping[str, Any], key: str, kind: type = str) -> Any:
    """The value `record[key]`. Ids may also be integers.

    Raises ValueError if it is missing, has another type, or is a string that cannot be encoded.
    """
    if key not in record:
        raise ValueError(f"{where}: no key {key!r} (it has: {', '.join(map(repr, record)) or 'none'})")
    value = record[key]
    if key.endswith("id") and isinstance(value, int):
        value = str(value)
    if not isinstance(value, kind):
        found = "null" if value is None else type(value).__name__
        raise ValueError(f"{where}: {key!r} must be of type {kind.__name__}, got {found}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can escape and no tokenizer reads
            raise ValueError(
                f"{where}: {key!r} is not valid Unicode (lone surrogate \\u{ord(value[error.start]):04x} at character "
                f"{error.start + 1})"
            ) from None
    return value


def check_column(what: str, value: str) -> None:
    """Raise ValueError if a value cannot be a column of a TREC run file; `what` names its place."""
    if value.split() != [value]:
        raise ValueError(f"{what} {value!r} must not be empty or contain white space (TREC run files)")


FORMAT = FileFormat(with_compressions(".jsonl", ".ndjson", ".json"), read_json_lines)
