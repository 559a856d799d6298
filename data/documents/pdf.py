"""PDF, by pypdf: the text of its pages."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.documents.document import Document, Section, one_line, paragraphs_of
from data.documents.needed import MissingLibrary, needed
from data.inspection.unspaced import count_words

FILE_NAME = re.compile(r".*\.\w{2,4}$|untitled.*|microsoft word.*|.*\bdocument\d*$", re.IGNORECASE)
HYPHEN = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
TITLE_WORDS = (3, 30)  # of a first line that is taken for a title
MIN_PAGES = 3  # on which a line stands before it is taken for a running head


def read_pdf(path: Path) -> Document:
    """The text of a PDF without the lines that most of its pages repeat. Its title is that of its metadata, unless it
    looks like the name of a file, else its first line.

    Raises ValueError, without the place, if it is broken or encrypted, or has no text (a scan).
    """
    pypdf = needed("pypdf")
    with _quiet():
        try:
            reader = pypdf.PdfReader(path)
            if reader.is_encrypted and not reader.decrypt(""):
                raise ValueError("encrypted PDF: save it without a password")
            named = one_line(str((reader.metadata or {}).get("/Title") or ""))
            pages = [page.extract_text() or "" for page in reader.pages]
        except (MissingLibrary, MemoryError):
            raise
        except Exception as error:  # of a broken file; pypdf raises many kinds
            known = isinstance(error, ValueError) and str(error).startswith("encrypted PDF:")
            raise ValueError(str(error) if known else f"broken PDF ({_reason(error)}): make it again") from None
    section = Section()
    for page in _without_running_heads(pages):
        for part in paragraphs_of(page):
            section.add(one_line(HYPHEN.sub("", part)))
    if not section.paragraphs:
        raise ValueError("PDF without text: a scan needs OCR first")
    if len(named.split()) < 2 or FILE_NAME.fullmatch(named):
        named = _first_line(pages)
    if named and section.paragraphs[0].startswith(named):
        rest = section.paragraphs[0].removeprefix(named).strip()
        section.paragraphs[:1] = [rest] if rest else []
    return Document(named, [section])


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def _without_running_heads(pages: list[str]) -> list[str]:
    """The pages without the first and last lines that most of them share, page numbers aside."""
    keys = [[re.sub(r"\d+", "", line.strip()) for line in page.splitlines()] for page in pages]
    ends = Counter(key for page in keys for key in {*page[:2], *page[-2:]})
    repeated = {key for key, count in ends.items() if count >= max(MIN_PAGES, len(pages) / 2 + 1)}
    return [
        "\n".join(line for line, key in zip(page.splitlines(), own, strict=True) if key not in repeated or not key)
        for page, own in zip(pages, keys, strict=True)
    ]


def _first_line(pages: list[str]) -> str:
    line = one_line(next((line for page in pages for line in page.splitlines() if line.strip()), ""))
    return line if TITLE_WORDS[0] <= count_words(line) <= TITLE_WORDS[1] and not line.endswith((".", ",")) else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pypdf from logging what it repairs."""
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
