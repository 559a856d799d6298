"""A document as it is read from a file: a title, and sections of paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from data.collection import is_empty

SPACE = re.compile(r"\s+")
BLANK_LINES = re.compile(r"\n[ \t\f\v]*\n\s*")


@dataclass
class Section:
    """Paragraphs below a heading, which may be empty. `summary` is the first paragraph if that says what the rest is
    (the first sentence of a docstring); without one, the first sentence of the section says it."""

    heading: str = ""
    paragraphs: list[str] = field(default_factory=list)
    summary: str = ""

    def add(self, paragraph: str) -> None:
        """Add a paragraph unless it is empty."""
        if not is_empty(paragraph):
            self.paragraphs.append(paragraph)


@dataclass
class Document:
    """A title, which may be empty, and sections. `row` is its number in a file of several documents; `guessed_encoding`
    that of a file that is not UTF-8 and does not say what it is."""

    title: str
    sections: list[Section]
    row: str = ""
    guessed_encoding: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but a title."""
        return not any(section.paragraphs for section in self.sections)


def one_line(text: str) -> str:
    """The text with single spaces.

    >>> one_line(" two\\n  words ")
    'two words'
    """
    return SPACE.sub(" ", text).strip()


def paragraphs_of(text: str) -> list[str]:
    """The paragraphs of a text, which blank lines separate, each with its lines."""
    return [part.strip("\n").rstrip() for part in BLANK_LINES.split(text) if not is_empty(part)]


def with_text(sections: Iterable[Section]) -> list[Section]:
    """The sections that have a paragraph."""
    return [section for section in sections if section.paragraphs]
