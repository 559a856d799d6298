"""Read documents to rank or search from text, JSONL or JSON files, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.formats.file_format import file_formats, format_of
from data.formats.jsonl import field_of, parse_json, read_json_lines, read_lines
from data.formats.text_file import plain_name, read_text

ID_KEYS = ("_id", "id", "docid")
TEXT_COLUMNS = ("text", "document", "passage", "doc")  # of tables, the first that there is
READ = ".txt (one document a line), .jsonl, .json, a table with a column text (.csv, .tsv, .parquet, .arrow), or -"


@dataclass(frozen=True)
class Document:
    """A document with its id."""

    id: str
    text: str


def read_documents(file: str, option: str = "--documents ") -> Iterator[Document]:
    """Read the documents of a .txt file or one without a suffix (one a line; "-" is standard input), a .jsonl file or a
    .json list, whose entries are texts or objects with text, title and _id, or a table with these columns (.csv, .tsv,
    .parquet, .arrow). Raises ValueError, which names file and line (or entry), or what is read if it is none of them.
    `option` is what the user set to the file, for messages.
    """
    path = Path(file)
    if file != "-" and path.is_dir():
        raise IsADirectoryError(f"{option}{file}: is a directory, expected a file")
    if file != "-" and not path.exists():
        raise FileNotFoundError(f"{option}{file}: no such file")
    kind = Path(plain_name(path)).suffix.lower()
    if file == "-":
        lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
        yield from (Document(str(number), line) for number, line in enumerate(lines, start=1))
    elif kind in (".jsonl", ".ndjson"):
        for where, record in read_json_lines(path):
            yield document_of(where, record, where.rpartition(":")[2])
    elif kind == ".json":
        yield from read_json_list(path)
    elif kind in (".txt", ""):
        yield from (Document(where.rpartition(":")[2], line) for where, line in read_lines(path))
    elif table := format_of(path, file_formats()):
        for number, (where, row) in enumerate(table.read(path), start=1):
            yield document_of_row(path, where, row, str(number))
    else:
        of_text = f"; of a text, {option}- < {file} reads the lines" * option.startswith("--")
        raise ValueError(f"{option}{file}: {kind} files are not read: give {READ}{of_text}")


def read_json_list(path: Path) -> Iterator[Document]:
    entries = parse_json(str(path), read_text(path))
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of texts or objects, got {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        if isinstance(entry, str):
            yield Document(str(number), entry)
        elif isinstance(entry, dict):
            yield document_of(where, entry, str(number))
        else:
            raise ValueError(f"{where}: expected a text or an object, got {type(entry).__name__}")


def document_of_row(path: Path, where: str, row: Mapping[str, Any], number: str) -> Document:
    """Make the document of a table's row; its columns are named in any case. An empty cell is no text."""
    named = {str(name).strip().lower(): value for name, value in row.items()}
    column = next((name for name in TEXT_COLUMNS if name in named), None)
    if column is None:
        found = ", ".join(repr(str(name)[:40]) for name in row)
        raise ValueError(
            f"{path}: no column text (its header has: {found}): name the columns text, title and _id, of which the "
            "last two may be left out"
        )
    cells = {name: value for name, value in named.items() if value is not None}
    return document_of(where, {**cells, "text": named[column] if named[column] is not None else ""}, number)


def document_of(where: str, record: Mapping[str, Any], number: str) -> Document:
    """Make the document of an object with a text, perhaps a title, and an id (default `number`).

    The title is put before the text, as in a collection.
    """
    key = next((key for key in ID_KEYS if key in record), None)
    title = field_of(where, record, "title") if record.get("title") else ""
    text = f"{title} {field_of(where, record, 'text')}".strip()
    return Document(field_of(where, record, key) if key else number, text)
