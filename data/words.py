"""The terms of a text that BM25 indexes and searches: words of any script, character bigrams, signs of code."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise

import Stemmer

from data.function_words import FUNCTION_WORDS
from data.languages import LANGUAGE_OF_SCRIPT, LANGUAGES, Tokenizer, detect, stop_words

logger = logging.getLogger(__name__)

# Letters and marks of scripts that are written without spaces, and of Korean, whose words carry particles and endings
# for which there is no stemmer: Han, kana, bopomofo, Hangul, Thai, Lao, Khmer, Burmese.
UNSPACED = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    "\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff"
    "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1780-\u17d3\u17dc\u17dd\u1000-\u103f\u1050-\u109f\uaa60-\uaa7f"
)
OPERATORS = r"[-+*/%=<>!&|^~?:]"
SYMBOLS = "\u2190-\u2bff\U0001f000-\U0001faff"  # arrows, operators, emoji
IDENTIFIER = re.compile(r"[^\W_]_+[^\W_]|[a-z]{2}[A-Z][a-z]")  # snake_case or camelCase inside
PARTS = re.compile(r"[A-Z]{2,}(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W_A-Za-z0-9]+")
INVISIBLE = str.maketrans("", "", "\u00ad\u200d\ufe0e\ufe0f")  # soft hyphen, joiner, selectors of emoji
TURKISH = str.maketrans({"İ": "i", "I": "\u0131"})  # dotted and dotless i
# Shorter words are not indexed. Single digits are, in other languages than English, whose figures are the known ones.
MIN_LENGTH = 2


@cache
def _marks() -> str:
    """All combining marks as ranges of a character class: Indic vowels and the like, which are no \\w."""
    is_mark = [unicodedata.category(chr(code))[0] == "M" for code in range(0x20000)]
    starts = [code for code, mark in enumerate(is_mark) if mark and not is_mark[code - 1]]
    ends = [code for code, mark in enumerate(is_mark[:-1]) if mark and not is_mark[code + 1]]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


class TextAnalyzer:
    """Converts texts to terms, the same way for documents and queries.

    A word is a run of letters, digits, underscores and combining marks, in lower case (NFKC), at least two characters
    long, without the stop words of `language` and stemmed. Latin words in a collection of another script are treated
    as English. "C++", "C#", comparisons ("a < b") and emoji are terms too. In code `snake_case` and `camelCase` also
    give their parts, and all operators are terms, alone and with their operands.

    With bigrams, a run of a script without spaces gives its pairs of neighbouring characters (with their marks). A
    document gives the single characters too, which are found by a query that has a character alone.
    """

    def __init__(self, language: str, tokenizer: Tokenizer) -> None:
        self.bigrams, self.code = tokenizer != "words", tokenizer == "code"
        is_latin = language in FUNCTION_WORDS["LATIN"] or language == "none"
        self.language, self.latin_language = language, language if is_latin or not _own_script(language) else "english"
        self._terms: dict[str, tuple[str, ...]] = {}

    def documents(self, texts: Iterable[str]) -> list[list[str]]:
        """The terms of each document."""
        return [self._analyze(text, is_query=False) for text in texts]

    def queries(self, texts: Iterable[str]) -> list[list[str]]:
        """The terms of each query."""
        return [self._analyze(text, is_query=True) for text in texts]

    def _analyze(self, text: str, *, is_query: bool) -> list[str]:
        is_ascii = text.isascii()
        if not is_ascii:
            text = unicodedata.normalize("NFKC", text).translate(INVISIBLE)
        found: list[str] = []
        for run, word, suffix, sign in _pattern(is_ascii, self.bigrams, self.code).findall(text):
            if run:
                found += _bigrams(run, is_query=is_query)
            elif sign:
                found.append(sign)
            else:
                found += self._terms_of(word)
                if suffix:
                    found.append(self._lower(word) + suffix)
        return found + _operations(text, OPERATION if self.code else COMPARISON)

    def _terms_of(self, word: str) -> tuple[str, ...]:
        terms = self._terms.get(word)
        if terms is None:
            parts = [word, *PARTS.findall(word)] if self.code and IDENTIFIER.search(word) else [word]
            stems = (self._stem(self._lower(part)) for part in parts)
            terms = self._terms[word] = tuple(stem for stem in stems if stem)
        return terms

    def _stem(self, word: str) -> str:
        language = self.latin_language if word.isascii() else self.language
        if len(word) < MIN_LENGTH and (self.language == "english" or not word.isdigit()):
            return ""
        if word in stop_words(language):
            return ""
        stemmer = _stemmer(language)
        return stemmer.stemWord(word) if stemmer is not None else word

    def _lower(self, word: str) -> str:
        return (word.translate(TURKISH) if self.language == "turkish" else word).lower()


def analyzer_for(documents: Sequence[str], language: str, tokenizer: Tokenizer, option: str) -> TextAnalyzer:
    """The analyzer of a corpus. What is "auto" is detected; the language is said once.

    `option` is the node that has the options `language` and `tokenizer`: "data.candidates" or "model".
    """
    found = detect(documents) if "auto" in (language, tokenizer) else None
    if found is not None and tokenizer == "auto":
        tokenizer = "code" if found.is_code else "bigrams"
    if found is not None and language == "auto":
        language = found.language
        shown = "words" if tokenizer == "bigrams" and not found.has_bigrams else tokenizer
        _announce(language, shown, option)
    assert language in LANGUAGES
    return TextAnalyzer(language, tokenizer)


@cache  # once, not for every split
def _announce(language: str, terms: str, option: str) -> None:
    logger.warning("BM25: language %s, %s; %s.language=... to change", language, terms, option)


def _own_script(language: str) -> bool:
    """Whether a language is written in another script than Latin."""
    others = {name for script, languages in FUNCTION_WORDS.items() if script != "LATIN" for name in languages}
    return language in others | set(LANGUAGE_OF_SCRIPT.values())


@cache
def _stemmer(language: str) -> Stemmer.Stemmer | None:
    return Stemmer.Stemmer(language) if language in Stemmer.algorithms() else None


@cache
def _pattern(is_ascii: bool, bigrams: bool, code: bool) -> re.Pattern[str]:
    """What is found in a text: a run to cut into bigrams, or a word and its sign (C++, C#), or a sign."""
    unspaced = UNSPACED if bigrams and not is_ascii else ""
    run = rf"([{unspaced}]+)" if unspaced else "((?!))"
    letter = rf"[^\W{unspaced}]"
    word = f"{letter}+" if is_ascii else f"{letter}+(?:[{_marks()}]+{letter}*)*"
    signs = rf"(?<!{OPERATORS}){OPERATORS}{{2,3}}(?!{OPERATORS})"
    signs = rf"{signs}|[{SYMBOLS}]" if code else f"[{SYMBOLS}]"
    return re.compile(rf"{run}|({word})(\+\+|\#(?!\w))?|({signs})")


OPERAND = rf"[^\W{UNSPACED}]+"
OPERATION = re.compile(rf"(?<=\w)[ \t]*(?!\+\+|--)({OPERATORS}{{2,3}}|[<>=+*&|^])[ \t]*(?=({OPERAND}))")
COMPARISON = re.compile(rf"(?<=\w)[ \t]*([<>=!]=|[<>])[ \t]*(?=({OPERAND}))")
LEFT_OPERAND = re.compile(rf"{OPERAND}\Z")
MAX_OPERAND = 64  # characters


def _operations(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The operators with their two operands, without spaces: "if a < b" gives "a<b"."""
    found = []
    for match in pattern.finditer(text):
        left = LEFT_OPERAND.search(text, max(0, match.start() - MAX_OPERAND), match.start())
        if left is not None:
            found.append(f"{left.group()}{match[1]}{match[2]}".lower())
    return found


@cache
def _cluster() -> re.Pattern[str]:
    """A character with its marks."""
    return re.compile(rf".[{_marks()}]*")


def _bigrams(run: str, *, is_query: bool) -> list[str]:
    characters = _cluster().findall(run)
    pairs = [first + second for first, second in pairwise(characters)]
    return pairs if is_query and pairs else [*characters, *pairs]
