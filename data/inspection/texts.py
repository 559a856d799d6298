"""Find damaged texts and repeated ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import ftfy

from data.collection import is_empty, normalised
from data.inspection.content import Content, Text
from data.inspection.finding import Finding, counted, first_few, have, shorten

CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f]")  # without white space and separators
REPLACEMENT = "\ufffd"
MAX_CHARACTERS = 100_000  # of a text that are looked at
CONTEXT = 25  # characters around a damaged one that are shown

DAMAGE = {  # name -> what it is, what to do
    "mojibake": (
        "text that was decoded with the wrong encoding (Ã© for é)",
        "read the source as UTF-8, or repair the texts (ftfy.fix_encoding of the Python package ftfy)",
    ),
    "replacement characters": (
        "U+FFFD where a character could not be decoded",
        "read the source again with its own encoding: the characters are lost here",
    ),
    "control characters": (
        "control characters that no text needs",
        "remove them, or read the source with its own encoding (U+0080 to U+009F are signs of Windows-1252)",
    ),
}


def find_damage(content: Content) -> Iterator[Finding]:
    """The findings about encodings, one for each kind."""
    found: dict[str, list[str]] = {name: [] for name in DAMAGE}
    total = 0
    for where, text in _all_texts(content):
        total += 1
        for name, place in damages(text[:MAX_CHARACTERS]):
            found[name].append(f"{where}: {text[max(0, place - CONTEXT) : place + CONTEXT]!r}")
    for name, examples in found.items():
        if examples:
            what, advice = DAMAGE[name]
            message = f"{len(examples):,} of {counted(total, 'text')} {have(len(examples))} {what}"
            yield Finding("warning", name, message, advice, first_few(examples))


def damages(text: str) -> Iterator[tuple[str, int]]:
    """The kinds of damage of a text, each with its first place.

    >>> [name for name, _ in damages("a caf\\u00c3\\u00a9 \\ufffd \\x07")]
    ['mojibake', 'replacement characters', 'control characters']
    >>> list(damages("CAF\\u00c9\\u00bb, a\\tb\\r\\n, \\u201c\\u00c9\\u201d"))
    []
    """
    if not text.isascii():
        fixed = ftfy.fix_encoding(text)
        if len(fixed) < len(text):  # several characters become one; control characters alone are replaced one by one
            yield "mojibake", _first_difference(text, fixed)
            text = fixed
        if (place := text.find(REPLACEMENT)) >= 0:
            yield "replacement characters", place
    if match := CONTROL.search(text):
        yield "control characters", match.start()


def _first_difference(text: str, other: str) -> int:
    return next((i for i, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), len(other))


def _all_texts(content: Content) -> Iterator[Text]:
    yield from content.query_texts()
    yield from content.documents.values()


def find_duplicates(content: Content) -> Iterator[Finding]:
    """Texts that stand under several ids; in data without ids, those of different lists that differ in case or spacing
    alone. (In one list they are labels of one document: `data.inspection.judged`.)"""
    if not content.has_ids:
        yield from _spellings(content)
        return
    for split, queries in content.queries.items():
        yield from _copies("queries", queries, f" of {split}" * (split in content.judged_splits))
    yield from _copies("documents", content.documents, "")


def _copies(what: str, texts: Mapping[str, Text], of: str) -> Iterator[Finding]:
    copies = [
        f"{texts[key].where}: {key!r} as {first!r}: {shorten(texts[key].text, 60)}" for key, first in equal(texts)
    ]
    if copies:
        advice = {
            "documents": "keep one of them: a copy of a relevant document counts as a wrong answer in evaluation",
            "queries": "keep one of them, with the judgements of both",
        }
        message = f"{len(copies):,} of {len(texts):,} {what}{of} {have(len(copies))} the text of another one"
        yield Finding("warning", f"duplicate {what}", message, advice[what], first_few(copies))


def _spellings(content: Content) -> Iterator[Finding]:
    pairs = list(equal(content.documents))
    lists: dict[str, set[tuple[str, str]]] = {key: set() for pair in pairs for key in pair}
    for judgement in content.judgements if pairs else ():
        if judgement.document in lists:
            lists[judgement.document].add((judgement.split, judgement.query))
    documents = content.documents
    copies = [
        f"{documents[key].where}: as {documents[first].where}: {shorten(documents[key].text, 60)}"
        for key, first in pairs
        if not lists[key] & lists[first]
    ]
    if copies and not any(content.degrees.values()):
        number = len(copies)
        yield Finding(
            "warning",
            "duplicate documents",
            f"{number:,} of {len(documents):,} documents {have(number)} the text of another one, up to case and "
            "spacing",
            "write them alike: now a copy of a relevant document counts as a wrong one",
            first_few(copies),
        )


def equal(texts: Mapping[str, Text]) -> Iterable[tuple[str, str]]:
    """The keys of texts that are equal to an earlier one (up to case and spacing), with the key of that one."""
    first: dict[int, str] = {}
    for key, (_, text) in texts.items():
        if is_empty(text):
            continue
        other = first.setdefault(hash(normalised(text)), key)
        if other != key:
            yield key, other
