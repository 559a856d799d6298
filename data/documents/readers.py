"""The documents of a file, by the suffix of its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.documents.code import read_code, read_python
from data.documents.decode import read_decoded
from data.documents.document import Document, Section, one_line, paragraphs_of
from data.documents.html import read_html
from data.documents.markdown import read_markdown
from data.documents.pdf import read_pdf
from data.documents.plain import read_plain
from data.formats.file_format import FileFormat, file_formats, format_of
from data.formats.row_error import RowError
from data.formats.skipped import SkippedRows, readable

TITLE_COLUMNS = ("title", "headline", "heading", "name", "subject")  # of rows, the first that there is
TEXT_COLUMNS = ("text", "body", "content", "contents", "document", "passage", "abstract", "doc")

ReadFile = Callable[[Path], Document]


def _of_text(read: Callable[[str], Document]) -> ReadFile:
    def read_file(path: Path) -> Document:
        text, guessed = read_decoded(path)
        return replace(read(text), guessed_encoding=guessed)

    return read_file


CODE = (
    ".bash .c .cc .clj .cpp .cs .cu .cxx .dart .el .ex .exs .f90 .go .h .hh .hpp .hs .java .jl .js .jsx .kt .lua .m "
    ".mjs .ml .php .pl .pm .r .rb .rs .scala .sh .sql .swift .ts .tsx .zig .zsh"
)
TEXT = ("", ".txt", ".text", ".rst", ".adoc", ".asciidoc", ".org", ".tex", ".log")
READERS: Mapping[str, ReadFile] = {
    **dict.fromkeys(TEXT, _of_text(read_plain)),
    **dict.fromkeys([".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd"], _of_text(read_markdown)),
    **dict.fromkeys([".html", ".htm", ".xhtml"], read_html),
    ".pdf": read_pdf,
    **dict.fromkeys([".py", ".pyi"], _of_text(read_python)),
    **dict.fromkeys(CODE.split(), _of_text(read_code)),
}
IN_WORDS = "text, Markdown, HTML, PDF, source code, tables with a column text (.jsonl, .csv, .parquet, ...)"


def suffix_of(path: Path) -> str:
    """The suffix by which a file is read, in lower case; "" for names such as README and LICENSE."""
    return path.suffix.lower()


class DocumentReader:
    """Reads the documents of files. `suffixes` are the only ones that are read; without any, all that are known."""

    def __init__(self, suffixes: tuple[str, ...], skipped: SkippedRows) -> None:
        self._suffixes, self._skipped = suffixes, skipped
        self._formats = file_formats()

    def is_wanted(self, path: Path) -> bool:
        """Whether the name of a file is among those that are read at all."""
        return not self._suffixes or path.name.lower().endswith(self._suffixes)

    def read(self, path: Path) -> Iterator[Document]:
        """The documents of a file that have a text. Raises ValueError, without the place, if there is none, or if the
        file cannot be read."""
        if (read := READERS.get(suffix_of(path))) is not None:
            document = read(path)
            if document.is_empty:
                raise ValueError("no text" if not document.title else "no text but its title")
            yield document
        elif (table := format_of(path, self._formats)) is not None:
            yield from self._rows(path, table)
        elif suffix_of(path) in self._suffixes:  # the user knows that it is text
            yield _of_text(read_plain)(path)
        else:
            raise ValueError(f"{suffix_of(path)} files are not read ({IN_WORDS}); data.suffixes chooses which are")

    def _rows(self, path: Path, table: FileFormat) -> Iterator[Document]:
        """A document for each row of a table that has a text. A row that is broken is noted."""
        column, number = None, 0
        for number, (where, row) in enumerate(readable(iter(table.read(path)), self._skipped), start=1):
            named = {str(name).strip().lower(): value for name, value in row.items()}
            if column is None or column not in named:
                column = next((name for name in TEXT_COLUMNS if name in named), None)
            if column is None:
                found = ", ".join(repr(str(name)[:40]) for name in row) or "none"
                raise ValueError(f"no column {' or '.join(TEXT_COLUMNS[:3])} (its rows have: {found})")
            try:
                yield _document_of(where, named, column, number)
            except RowError as error:
                self._skipped.leave_out(error.where, error)
        if not number:
            raise ValueError("it has no rows")


def _document_of(where: str, row: Mapping[str, Any], column: str, number: int) -> Document:
    text, title = row[column], next((row[name] for name in TITLE_COLUMNS if name in row), None)
    if not isinstance(text, str) or not isinstance(title, str | None):
        name, value = (column, text) if not isinstance(text, str) else ("title", title)
        raise RowError(where, f"{where}: {name!r} must be a text, got {type(value).__name__}")
    try:
        f"{title}{text}".encode()
    except UnicodeEncodeError:
        raise RowError(where, f"{where}: {column!r} is not valid Unicode (a lone surrogate)") from None
    section = Section()
    for part in paragraphs_of(text):
        section.add(one_line(part))
    if not section.paragraphs:
        raise RowError(where, f"{where}: {column!r} has no text")
    return Document(one_line(title or ""), [section], str(number))
