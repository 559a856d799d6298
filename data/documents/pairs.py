"""Pairs of a query and a chunk from documents alone. What a query asks is not in the text of its chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from data.collection import normalised
from data.documents.chunks import Chunk, words_in
from data.documents.document import Document, one_line
from data.documents.sentences import first_sentence
from data.hashing import stable_hash
from data.inspection.unspaced import count_words

MIN_REST = 12  # words that are left of a chunk whose summary or span has become a query
SHORT, LONG, INSIDE, BESIDE = "too short", "too long", "stands in its text", "stands in a text beside it"


@dataclass(frozen=True)
class PairOptions:
    """The kinds of pairs, each of which can be left out."""

    title: bool = True  # a document's title and its first chunk
    heading: bool = True  # a section's heading and its first chunk
    summary: bool = True  # the first sentence of a section (a function's docstring) and the rest of its first chunk
    crop: bool = True  # a random span of a chunk and the rest of it
    min_words: int = 2  # of a title or heading
    max_words: int = 64  # of any query
    crop_min_words: int = 6  # of a random span, at least
    crop_max_words: int = 24  # and at most

    def __post_init__(self) -> None:
        for low, high in (("min_words", "max_words"), ("crop_min_words", "crop_max_words")):
            if not 1 <= getattr(self, low) <= getattr(self, high):
                raise ValueError(
                    f"data.pairs.{low}={getattr(self, low)} must be at least 1 and at most data.pairs.{high}="
                    f"{getattr(self, high)}"
                )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are made."""
        return tuple(part.name for part in fields(self) if getattr(self, part.name) is True)


@dataclass(frozen=True)
class Pair:
    """A query for the chunk with the number `chunk` in its document. `dropped` says why it is none, if it is none."""

    kind: str
    query: str
    chunk: int
    dropped: str = ""


class PairMaker:
    """Makes the pairs of documents. Random spans are keyed by `seed`, the document and the number of the chunk."""

    def __init__(self, options: PairOptions, seed: int) -> None:
        self._options, self._seed = options, seed

    def make(self, name: str, document: Document, chunks: Sequence[Chunk]) -> tuple[list[str], list[Pair]]:
        """The texts of the chunks without what their queries ask, and the pairs."""
        texts: list[str] = []
        pairs: list[Pair] = []
        for number, chunk in enumerate(chunks):
            text, own = self._cut(name, number, chunk)
            own = [*self._named(number, document, chunk), *own]
            texts.append("\n".join([*self._kept_names(document, chunk), text]))
            pairs += own
        return texts, list(_checked(pairs, texts))

    def _kept_names(self, document: Document, chunk: Chunk) -> list[str]:
        """The title and the heading, unless they are queries."""
        options, heading = self._options, chunk.section.heading
        title = [document.title] if document.title and not options.title else []
        return [*title, heading] if heading and not options.heading else title

    def _named(self, number: int, document: Document, chunk: Chunk) -> Iterator[Pair]:
        """The pairs of the title and of the heading."""
        heading = chunk.section.heading
        if self._options.title and number == 0 and document.title:
            yield self._pair("title", document.title, number)
        if self._options.heading and chunk.is_first_of_section and heading:
            yield self._pair("heading", heading, number)

    def _pair(self, kind: str, text: str, number: int) -> Pair:
        query, options = one_line(text), self._options
        words = count_words(query)
        reason = SHORT if words < options.min_words else LONG if words > options.max_words else ""
        return Pair(kind, query, number, reason)

    def _cut(self, name: str, number: int, chunk: Chunk) -> tuple[str, list[Pair]]:
        """The text without its summary and a random span, and their pairs."""
        text, pairs, tail = chunk.text, [], chunk.tail
        if self._options.summary and chunk.is_first_of_section:
            summary = chunk.section.summary or first_sentence(text.split("\n\n")[0])
            rest = text.removeprefix(summary)
            pair = self._pair("summary", summary, number)
            if len(rest) == len(text) or len(rest) < tail or count_words(rest) < MIN_REST:
                pair = Pair("summary", pair.query, number, pair.dropped or SHORT)
            if not pair.dropped:
                text = rest.lstrip()
            pairs.append(pair)
        if self._options.crop:
            text, pair = self._crop(name, number, text, chunk.head, min(tail, len(text)))
            pairs.append(pair)
        return text, pairs

    def _crop(self, name: str, number: int, text: str, head: int, tail: int) -> tuple[str, Pair]:
        """Cut a random span out of a text, without the `head` and `tail` that it shares with its neighbours.

        It is the inverse cloze task (Lee et al. 2019, arXiv:1906.00300) with a span of random length in place of a
        sentence. The two spans of Contriever (Izacard et al. 2022, arXiv:2112.09118) may overlap; these do not.
        """
        options = self._options
        words = [(start, end) for start, end in words_in(text) if start >= head and end <= len(text) - tail]
        key = stable_hash("crop", self._seed, name, number)
        length = options.crop_min_words + key % (options.crop_max_words - options.crop_min_words + 1)
        if len(words) < length + MIN_REST:
            return text, Pair("crop", "", number, SHORT)
        first = stable_hash("place", self._seed, name, number) % (len(words) - length + 1)
        start, end = words[first][0], words[first + length - 1][1]
        before, after = text[:start].rstrip(" "), text[end:].lstrip(" ")
        between = " " if text[start - 1 : start] == " " or text[end : end + 1] == " " else ""
        return f"{before}{between}{after}".strip(), Pair("crop", one_line(text[start:end]), number)


def _checked(pairs: Sequence[Pair], texts: Sequence[str]) -> Iterator[Pair]:
    """The pairs; those whose query stands in its text or in one beside it, or was asked of the chunk before, are
    dropped. (Chunks share text with their neighbours alone.)"""
    known: set[tuple[int, str]] = set()
    shown: dict[int, str] = {}
    for pair in pairs:
        if pair.dropped:
            yield pair
            continue
        for place in range(max(pair.chunk - 1, 0), min(pair.chunk + 2, len(texts))):
            if place not in shown:
                shown[place] = normalised(texts[place])
        shown.pop(pair.chunk - 2, None)
        query = normalised(pair.query)
        beside = [shown[place] for place in (pair.chunk - 1, pair.chunk + 1) if place in shown]
        reason = INSIDE if query in shown[pair.chunk] else BESIDE if any(query in text for text in beside) else ""
        if not reason and (pair.chunk, query) in known:
            reason = "asked by another kind"
        known.add((pair.chunk, query))
        yield Pair(pair.kind, pair.query, pair.chunk, reason)
