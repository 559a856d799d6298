"""Clean what a language model wrote: remove what stands around a question or passage, and say why one is no use."""

# ruff: noqa: RUF001  (signs of other scripts look like Latin ones)

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from data.collection import is_empty, normalised
from data.function_words import FUNCTION_WORDS
from data.languages import letters_by_script
from data.sampling.never_rows import Marks, overlap

ENDS = ".!?…。！？؟۔।॥"  # of sentences
CLOSING = "\"'”’»」』)）"
QUOTES = ('""', "''", "“”", "‘’", "„“", "«»", "»«", "「」", "『』", "``", "‹›")
NEAR = 0.8  # the share of common runs of words from which a passage is a copy of another one
MIN_COPIED = 3  # words or signs of a script without spaces: shorter texts are in any document

THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
PREAMBLE = re.compile(
    r"(sure|certainly|of course|absolutely|okay|ok|great)[,!.:]\s+|"
    r"(here('s| is| are)|below (is|are)|the following (is|are)|this is)\b[^\n:?？]{0,160}:",
    re.IGNORECASE,
)
LABEL = re.compile(
    r"((search |rewritten |paraphrased |sample |possible )?(question|query|paraphrase|passage|document|q)|"
    r"问题|問題|質問|질문|pregunta|frage|вопрос|domanda|pergunta)\s*(#?\d{1,2})?\s*[:：]\s*",
    re.IGNORECASE,
)
NUMBERING = re.compile(r"(\(?\d{1,2}\s?[.):、．]|[-*•–—])\s+|#{1,6}\s+|[①-⑳]\s*")
REFERRING = re.compile(r"\b(the|this|that|given|above) (document|passage|text|excerpt|article)\b", re.IGNORECASE)
MARKUP = re.compile(r"\*\*|__|`")

CHANGES = {
    "thinking": "reasoning removed",
    "preamble": 'an opening removed ("Sure, here is ...")',
    "label": 'a label removed ("Question:")',
    "numbering": "numbering or a bullet removed",
    "quotes": "quotation marks around it removed",
    "markup": "marks of bold, italics or code removed",
    "more_lines": "further lines removed",
    "trimmed": "an unfinished last sentence removed",
}
REASONS = {
    "empty": "nothing was written",
    "unfinished": "cut at generate.max_new_tokens inside its first sentence",
    "too_short": "shorter than clean.min_characters",
    "too_long": "longer than clean.max_characters",
    "prompt": "words of the prompt",
    "copied": "copied from the text that it is about",
    "refers": 'it speaks of "the document", which nobody does who searches',
    "other_language": "in another language than the text that it is about",
    "duplicate": "equal to one that was written before, or to a query of the data",
    "held_out": "equal to a query of dev or test",
    "not_found": "the retriever does not find what it was written for among the first round_trip documents",
}


@dataclass(frozen=True, kw_only=True)
class CleaningOptions:
    """Which texts are left out."""

    min_characters: int = 4
    max_characters: int | None = None  # None: 300 of a question, 4000 of a passage
    copied: bool = True  # leave out what is copied from the text that it is about
    refers: bool = True  # leave out questions that speak of "the document"
    same_language: bool = False  # leave out what is in another language

    def __post_init__(self) -> None:
        if self.min_characters < 1:
            raise ValueError(f"clean.min_characters={self.min_characters} must be at least 1")
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(
                f"clean.max_characters={self.max_characters} is below clean.min_characters={self.min_characters}"
            )

    def most(self, *, is_passage: bool) -> float:
        """The most characters of a text."""
        return self.max_characters or (4000 if is_passage else 300)


@dataclass(frozen=True)
class Cleaned:
    """A text after cleaning: what was changed (keys of CHANGES), and why it is left out (of REASONS; "": it is not)."""

    text: str
    changes: tuple[str, ...] = ()
    reason: str = ""


def cleaned(
    text: str,
    source: str,
    prompt: str,
    options: CleaningOptions,
    *,
    is_finished: bool = True,
    is_passage: bool = False,
) -> Cleaned:
    """Clean a text that was written about `source` after `prompt`, a template. A question is one line, a passage any
    number, joined.

    >>> answer = 'Sure, here is a question:\\n1. **"What is BM25?"**\\nIt asks'
    >>> found = cleaned(answer, "BM25 ranks documents.", "Write a query: {document}", CleaningOptions())
    >>> found.text, found.changes
    ('What is BM25?', ('preamble', 'numbering', 'markup', 'more_lines', 'quotes'))
    """
    bare, changes = _unwrapped(text, is_passage=is_passage)
    if not is_finished and "more_lines" not in changes:
        whole = _whole_sentences(bare)
        if not whole:
            return Cleaned(bare, tuple(changes), "unfinished" if not is_empty(bare) else "empty")
        if whole != bare:
            bare, changes = whole, [*changes, "trimmed"]
    reason = _reason(bare, source, prompt, options, is_passage=is_passage)
    return Cleaned(bare, tuple(dict.fromkeys(changes)), reason)


def _unwrapped(text: str, *, is_passage: bool) -> tuple[str, list[str]]:
    """The text without what stands around it, and the changes."""
    bare, changes = text.strip(), list[str]()
    if (thought := THINKING.sub("", bare).strip()) != bare:
        bare, changes = thought, ["thinking"]
    before = ""
    while before != bare:
        before = bare
        bare = _without_opening(bare, changes)
        if not is_passage:
            bare = _first_line(bare, changes)
        bare = _without_quotes(bare, changes)
    if (plain := MARKUP.sub("", bare)) != bare and not is_passage:
        bare = plain
        changes.append("markup")
        again, more = _unwrapped(bare, is_passage=is_passage)
        return again, [*changes, *more]
    return " ".join(bare.split()), changes


def _without_opening(text: str, changes: list[str]) -> str:
    for name, pattern in (("preamble", PREAMBLE), ("label", LABEL), ("numbering", NUMBERING)):
        found = pattern.match(text)
        if found and not is_empty(text[found.end() :]):
            text = text[found.end() :].strip()
            changes.append(name)
    if (plain := re.sub(r"\A(\*\*|__)(.+?)\1", r"\2", text)) != text:
        text = plain
        changes.append("markup")
    return text


def _first_line(text: str, changes: list[str]) -> str:
    """The first line. One that ends with a colon opens the others, in any language."""
    lines = [line.strip() for line in text.splitlines() if not is_empty(line)]
    if len(lines) > 1 and lines[0].endswith((":", "：")):
        changes.append("preamble")
        return "\n".join(lines[1:])
    if len(lines) > 1:
        changes.append("more_lines")
    return lines[0] if lines else ""


def _without_quotes(text: str, changes: list[str]) -> str:
    inner = text[1:-1]
    if len(text) > 2 and text[0] + text[-1] in QUOTES and not {text[0], text[-1]} & set(inner):
        changes.append("quotes")
        return inner.strip()
    return text


def _whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty if it has none."""
    ends = [
        match.end()
        for match in re.finditer(f"[{re.escape(ENDS)}][{re.escape(CLOSING)}]*", text)
        if match.end() == len(text) or text[match.end()].isspace() or text[match.start()] in "。！？।॥"
    ]
    return text[: ends[-1]] if ends else ""


def _reason(text: str, source: str, prompt: str, options: CleaningOptions, *, is_passage: bool) -> str:
    """Why a text is left out, a key of REASONS; "" if it is not."""
    length = sum(not sign.isspace() for sign in text)
    if is_empty(text) or not any(sign.isalnum() for sign in text):
        return "empty"
    if length < options.min_characters:
        return "too_short"
    if len(text) > options.most(is_passage=is_passage):
        return "too_long"
    if _is_within(text, prompt):
        return "prompt"
    if options.copied and (_is_within(text, source) or (is_passage and _nearly_equal(text, source))):
        return "copied"
    if options.refers and not is_passage and REFERRING.search(text) and not REFERRING.search(source):
        return "refers"
    if options.same_language and is_other_language(text, source):
        return "other_language"
    return ""


def _is_within(text: str, whole: str) -> bool:
    """Whether the words of a text stand in another one, in this order and without a gap."""
    is_spaced = script_of(letters_by_script([text])) not in UNSPACED_SCRIPTS
    own, others = (_plain(each, is_spaced=is_spaced) for each in (text, whole))
    size = len(own.split()) if is_spaced else len(own) / 2
    return size >= MIN_COPIED and own in others


def _plain(text: str, *, is_spaced: bool) -> str:
    """The letters, marks and digits of a text in the form of equal texts, in words or without any space."""
    kept = "".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in normalised(text)).split()
    return f" {' '.join(kept)} " if is_spaced else "".join(kept)


def _nearly_equal(text: str, other: str) -> bool:
    return overlap(Marks.of(text).runs, Marks.of(other).runs, NEAR) >= NEAR


UNSPACED_SCRIPTS = {"CJK", "THAI", "LAO", "KHMER", "MYANMAR"}
JAPANESE = {"HIRAGANA", "KATAKANA"}


def script_of(letters: Mapping[str, int]) -> str:
    """The script of most letters, "" if there are none. Kana and Han are one: a Japanese text has both."""
    joined: dict[str, int] = {}
    for script, count in letters.items():
        name = "CJK" if script in JAPANESE else script
        joined[name] = joined.get(name, 0) + count
    return max(joined, key=lambda name: joined[name], default="")


def is_other_language(text: str, source: str) -> bool:
    """Whether a text is surely in another language than its source: in another script, or with two frequent words
    more of another language of that script than twice as many as of the source's.

    >>> is_other_language("Wie ist das mit der Zelle?", "The cell of the plant is divided, and that is all.")
    True
    """
    own, others = letters_by_script([text]), letters_by_script([source])
    if not own or not others:
        return False
    if script_of(own) != script_of(others):
        return True
    languages = FUNCTION_WORDS.get(script_of(others), {})
    if not languages:
        return False
    counts = {name: _frequent(source, words) for name, words in languages.items()}
    language = max(counts, key=lambda name: counts[name])
    if counts[language] < 2:
        return False  # too short to say
    found = {name: _frequent(text, words) for name, words in languages.items()}
    return max(found.values()) >= 2 + 2 * found[language]


def _frequent(text: str, words: str) -> int:
    """How many different frequent words of a language a text has."""
    return len(set(words.split()) & {word.strip(ENDS + CLOSING + ",;:¿¡(") for word in text.lower().split()})
