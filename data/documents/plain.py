"""Plain text: a title, headings that are underlined, paragraphs between blank lines."""

from __future__ import annotations

import re

from data.documents.document import Document, Section, one_line, paragraphs_of, with_text
from data.inspection.unspaced import count_words

UNDERLINE = re.compile(r"([=\-~^\"'#*+`:.])\1{2,}\s*")  # of a heading in reStructuredText, AsciiDoc, Setext
DIRECTIVE = re.compile(r"\s*\.\. [\w-]+::|\s*:[\w-]+:")  # of reStructuredText
MAX_TITLE = 40  # words


def read_plain(text: str) -> Document:
    """A text. Its title is the first paragraph if that is one short line and another one follows, or the first of its
    underlined headings if nothing stands before it."""
    parts = paragraphs_of(text)
    title, sections = "", [Section()]
    for number, part in enumerate(parts):
        heading, rest = _heading(part)
        if not heading and number == 0 and len(parts) > 1 and _is_title(part):
            heading, rest = one_line(part), ""
        if heading and number == 0:
            title = heading
        elif heading:
            sections.append(Section(heading))
        if rest and not DIRECTIVE.match(rest):
            sections[-1].add(one_line(rest))
    return Document(title, with_text(sections))


def _heading(part: str) -> tuple[str, str]:
    """The underlined heading with which a paragraph begins, and the rest of it; "" and all of it if there is none."""
    lines = part.splitlines()
    if len(lines) > 2 and UNDERLINE.fullmatch(lines[0]) and UNDERLINE.fullmatch(lines[2]):
        lines = lines[1:]  # it has a line above it, too
    if len(lines) > 1 and UNDERLINE.fullmatch(lines[1]) and not UNDERLINE.fullmatch(lines[0]):
        return one_line(lines[0]), "\n".join(lines[2:])
    return "", part


def _is_title(part: str) -> bool:
    return "\n" not in part.strip() and count_words(part) <= MAX_TITLE
