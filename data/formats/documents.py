"""Read documents to rank or search from text, JSONL or JSON files, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.formats.jsonl import field_of, parse_json, read_json_lines, read_lines
from data.formats.text_file import plain_name, read_text

ID_KEYS = ("_id", "id", "docid")


@dataclass(frozen=True)
class Document:
    """A document with its id."""

    id: str
    text: str


def read_documents(file: str) -> Iterator[Document]:
    """Read the documents of a .txt file (one a line; "-" is standard input), a .jsonl file or a .json list, whose
    entries are texts or objects with text, title and _id. Raises ValueError, which names file and line (or entry)."""
    path = Path(file)
    if file != "-" and path.is_dir():
        raise IsADirectoryError(f"--documents {file}: is a directory, expected a file")
    if file != "-" and not path.exists():
        raise FileNotFoundError(f"--documents {file}: no such file")
    kind = plain_name(path).rpartition(".")[2]
    if file == "-":
        lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
        yield from (Document(str(number), line) for number, line in enumerate(lines, start=1))
    elif kind == "jsonl":
        for where, record in read_json_lines(path):
            yield document_of(where, record, where.rpartition(":")[2])
    elif kind == "json":
        yield from read_json_list(path)
    else:
        yield from (Document(where.rpartition(":")[2], line) for where, line in read_lines(path))


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


def document_of(where: str, record: Mapping[str, Any], number: str) -> Document:
    """Make the document of an object with a text, perhaps a title, and an id (default `number`).

    The title is put before the text, as in a collection.
    """
    key = next((key for key in ID_KEYS if key in record), None)
    title = field_of(where, record, "title") if record.get("title") else ""
    text = f"{title} {field_of(where, record, 'text')}".strip()
    return Document(field_of(where, record, key) if key else number, text)
