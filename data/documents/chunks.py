"""Cut a document into chunks: by its sections, then paragraphs, then sentences, then words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.documents.document import Document, Section
from data.documents.sentences import sentences_of
from data.inspection.unspaced import WORD, is_unspaced

SPACED_WORD = re.compile(r"\S+")
WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
PARAGRAPH = "\n\n"


@dataclass(frozen=True)
class ChunkOptions:
    """How long chunks are, in words and signs. In scripts without spaces a letter counts as a word."""

    words: int = 200  # of a chunk, at most
    overlap: int = 30  # that a chunk repeats of the one before in its section, at most

    def __post_init__(self) -> None:
        if self.words < 10:
            raise ValueError(f"data.chunks.words={self.words} must be at least 10")
        if not 0 <= self.overlap <= self.words // 2:
            raise ValueError(
                f"data.chunks.overlap={self.overlap} must be at least 0 and at most half of data.chunks.words="
                f"{self.words}"
            )


@dataclass(frozen=True)
class Chunk:
    """A part of a section. The first `head` characters are those at the end of the chunk before, the last `tail` ones
    begin the next one."""

    section: Section
    section_number: int
    is_first_of_section: bool
    text: str
    head: int = 0
    tail: int = 0


def chunks_of(document: Document, options: ChunkOptions) -> list[Chunk]:
    """The chunks of a document in their order."""
    return [
        chunk for number, section in enumerate(document.sections) for chunk in _of_section(section, number, options)
    ]


def _of_section(section: Section, number: int, options: ChunkOptions) -> Iterator[Chunk]:
    own = _packed(list(_pieces(section.paragraphs, options.words - options.overlap)), options)
    repeated = [last_words(part, options.overlap) for part in own[:-1]]
    heads = [*[""] * bool(own), *(f"{part}\n" if part else "" for part in repeated)]
    for place, (head, part) in enumerate(zip(heads, own, strict=True)):
        tail = len(repeated[place]) if place < len(repeated) else 0
        yield Chunk(section, number, place == 0, head + part, len(head), tail)


def _pieces(paragraphs: Sequence[str], size: int) -> Iterator[tuple[str, str]]:
    """What chunks are made of: (what separates it from the piece before, a text of at most `size` words)."""
    for paragraph in paragraphs:
        if size_of(paragraph) <= size:
            yield PARAGRAPH, paragraph
            continue
        between = PARAGRAPH
        for sentence in _parts(paragraph):
            for piece in cut_words(sentence, size):
                yield between, piece
                between = "" if piece[-1:].isspace() else " " * (not is_unspaced(piece))


def _parts(paragraph: str) -> list[str]:
    """The lines of code or of a table, or the sentences of a text."""
    if "\n" in paragraph:
        return paragraph.splitlines(keepends=True)
    return sentences_of(paragraph)


def cut_words(text: str, size: int) -> Iterator[str]:
    """The text in parts of at most `size` words and signs.

    >>> list(cut_words("one two three four five", 2))
    ['one two ', 'three four ', 'five']
    """
    start, used = 0, 0
    for place, words in _whole_words(text, size):
        if used and used + words > size:
            yield text[start:place]
            start, used = place, 0
        used += words
    yield text[start:]


def _packed(pieces: list[tuple[str, str]], options: ChunkOptions) -> list[str]:
    """The pieces joined to texts of at most `words`, less the overlap for all but the first."""
    found: list[str] = []
    text, words = "", 0
    for between, piece in pieces:
        size, limit = size_of(piece), options.words - (options.overlap if found else 0)
        if text and words + size > limit:
            found.append(text.strip("\n").rstrip())
            text, words = "", 0
        text, words = (f"{text}{between}{piece}" if text else piece), words + size
    return [*found, text.strip("\n").rstrip()] if text else found


def last_words(text: str, count: int) -> str:
    """The end of a text: whole sentences of at most `count` words and signs, or if the last one is longer its last
    words.

    >>> last_words("Ten words are here. Three more words.", 4), last_words("one two three", 2), last_words("one", 0)
    ('Three more words.', 'two three', '')
    """
    if count == 0:
        return ""
    start, used = len(text), 0
    for sentence in reversed(sentences_of(text)):
        used += size_of(sentence)
        if used > count:
            break
        start -= len(sentence)
    used = 0
    if start == len(text):
        for place, words in reversed(list(_whole_words(text, count))):
            used += words
            if used > count:
                break
            start = place
    return text[start:]


def size_of(text: str) -> int:
    """The number of words and signs, which is nearer to that of a model's tokens than that of words is."""
    return len((WORD if is_unspaced(text) else WORD_OR_SIGN).findall(text))


def _whole_words(text: str, size: int) -> Iterator[tuple[int, int]]:
    """The place where each word begins, and its size with the signs at it. A longer one than `size` gives its parts."""
    if is_unspaced(text):
        yield from ((match.start(), 1) for match in WORD.finditer(text))
        return
    for match in SPACED_WORD.finditer(text):
        parts = [part.start() + match.start() for part in WORD_OR_SIGN.finditer(match.group())]
        yield from [(match.start(), len(parts))] if len(parts) <= size else [(start, 1) for start in parts]


def words_in(text: str) -> list[tuple[int, int]]:
    """The places where each word begins and ends."""
    return [match.span() for match in (WORD if is_unspaced(text) else SPACED_WORD).finditer(text)]
