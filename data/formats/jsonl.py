"""Read JSONL and other line-oriented files, plain or gzip. Errors name file and line."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.formats.file_format import FileFormat, Record


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Read every line that is not blank as (where, line), without its line break and without a byte order mark.

    Raises ValueError if the file is not UTF-8 or not valid gzip.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield f"{path}:{number}", line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}): convert it (iconv -f latin1 -t utf8)"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}:{number + 1}: broken gzip file ({error}); make it again") from None


def read_json_lines(path: Path) -> Iterator[Record]:
    """Read every line of a JSONL file as (where, object)."""
    for where, line in read_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: malformed JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
            ) from None
        except RecursionError:
            raise ValueError(f"{where}: malformed JSON (nested too deeply)") from None
        except ValueError as error:  # an integer of thousands of digits
            raise ValueError(f"{where}: malformed JSON ({str(error).partition(';')[0]})") from None
        if not isinstance(record, dict):
            raise ValueError(f"{where}: expected a JSON object, got {type(record).__name__}")
        yield where, record


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
        raise ValueError(f"{where}: {key!r} must be of type {kind.__name__}, got {type(value).__name__}")
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


def unique(records: Iterable[tuple[str, str, Any]]) -> dict[str, Any]:
    """Collect (where, key, value) as {key: value}. Raises ValueError if a key occurs twice."""
    first: dict[str, str] = {}
    values: dict[str, Any] = {}
    for where, key, value in records:
        if key in first:
            raise ValueError(f"{where}: duplicate id {key!r} (first at {first[key]}); ids must be unique")
        first[key] = where
        values[key] = value
    return values


FORMAT = FileFormat((".jsonl", ".jsonl.gz"), read_json_lines)
