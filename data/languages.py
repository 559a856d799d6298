"""The languages of BM25: their stemmers and stop words, and which of them a text is written in."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import bm25s.stopwords
import Stemmer

from data.function_words import FUNCTION_WORDS

Tokenizer = Literal["auto", "words", "bigrams", "code"]

# Languages without a Snowball stemmer that have a script of their own.
UNSTEMMED = ("burmese", "chinese", "japanese", "khmer", "korean", "lao", "thai")
LANGUAGES = ("auto", "none", *sorted({*Stemmer.algorithms(), *UNSTEMMED}))

LANGUAGE_OF_SCRIPT = {
    "ARMENIAN": "armenian",
    "CJK": "chinese",
    "GREEK": "greek",
    "HANGUL": "korean",
    "HIRAGANA": "japanese",
    "KATAKANA": "japanese",
    "KHMER": "khmer",
    "LAO": "lao",
    "MYANMAR": "burmese",
    "TAMIL": "tamil",
    "THAI": "thai",
}
SYLLABIC = {"CJK", "HANGUL", "HIRAGANA", "KATAKANA"}  # one character stands for two or three letters

SAMPLED_DOCUMENTS = 500
SAMPLED_CHARACTERS = 500  # of each document
PUNCTUATION = ".,;:!?\"'()،؛؟।«»„“”"
CODE_SIGNS = "_(){}[];=<>+*&|/\\#"
# Code has so many of these signs to its letters and few function words, or twice as many signs. Prose has at most half
# as many, and so have docstrings.
MIN_SIGNS = 0.06
MAX_FUNCTION_WORDS = 0.2
MIN_WORDS = 20  # shorter Latin texts are taken for English
MIN_DIFFERENT = 4  # function words
MIN_SHARE = 0.08  # of function words, for another language than English
MIN_RATIO = 1.5  # to the share of English ones


@dataclass(frozen=True)
class Detected:
    """The language of a corpus, and whether it is code or has scripts that are cut into bigrams."""

    language: str
    is_code: bool = False
    has_bigrams: bool = False


def check_language(option: str, language: str) -> None:
    """Raise ValueError, with the nearest name, if BM25 knows no such language."""
    if language not in LANGUAGES:
        near = difflib.get_close_matches(language, LANGUAGES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{option}.language={language}: {hint}valid are {', '.join(LANGUAGES)}")


@cache
def stop_words(language: str) -> frozenset[str]:
    """The stop words that bm25s has for a language (of English, Lucene's 33)."""
    names = {"english": "EN", "porter": "EN", "dutch_porter": "DUTCH"}
    return frozenset(getattr(bm25s.stopwords, f"STOPWORDS_{names.get(language, language.upper())}", ()))


def detect(documents: Sequence[str]) -> Detected:
    """The language of a corpus, from the scripts and the frequent words of a sample of it.

    The sample is spread evenly over the documents and is the same every time. Latin text that is short or undecided is
    English, and so is code.
    """
    step = -(-len(documents) // SAMPLED_DOCUMENTS) or 1
    sample = [unicodedata.normalize("NFKC", text[:SAMPLED_CHARACTERS]).lower() for text in documents[::step]]
    letters = letters_by_script(sample)
    if not letters:
        return Detected("english")
    words = Counter(word.strip(PUNCTUATION) for text in sample for word in text.split())
    unspaced = sum(count for script, count in letters.items() if LANGUAGE_OF_SCRIPT.get(script) in UNSTEMMED)
    has_bigrams = unspaced >= 0.01 * sum(letters.values())
    return Detected(_language(words, letters), _is_code(sample, words, sum(letters.values())), has_bigrams)


def _is_code(sample: Sequence[str], words: Mapping[str, int], num_letters: int) -> bool:
    signs = sum(text.count(sign) for text in sample for sign in CODE_SIGNS) / num_letters
    return signs >= 2 * MIN_SIGNS or (signs >= MIN_SIGNS and _share(words, "LATIN", "english") < MAX_FUNCTION_WORDS)


def _language(words: Mapping[str, int], letters: Mapping[str, int]) -> str:
    weights = {script: count * (2 if script in SYLLABIC else 1) for script, count in letters.items()}
    script = max(weights, key=lambda name: weights[name])
    kana = letters.get("HIRAGANA", 0) + letters.get("KATAKANA", 0)
    if script in ("CJK", "HIRAGANA", "KATAKANA"):
        return "japanese" if kana >= 0.05 * (kana + letters.get("CJK", 0)) else "chinese"
    if script not in FUNCTION_WORDS:
        return LANGUAGE_OF_SCRIPT.get(script, "none")
    shares = {language: _share(words, script, language) for language in FUNCTION_WORDS[script]}
    best = max(shares, key=lambda language: shares[language])  # the first of equal ones
    seen = sum(word in words for word in FUNCTION_WORDS[script][best].split())
    decided = (
        sum(words.values()) >= MIN_WORDS
        and seen >= MIN_DIFFERENT
        and shares[best] >= max(MIN_SHARE, MIN_RATIO * shares.get("english", 0))
    )
    return best if script != "LATIN" or decided else "english"


def _share(words: Mapping[str, int], script: str, language: str) -> float:
    """The share of a language's frequent words."""
    return sum(words.get(word, 0) for word in FUNCTION_WORDS[script][language].split()) / sum(words.values())


def letters_by_script(sample: Sequence[str]) -> Counter[str]:
    """The number of letters of each script: the first word of the characters' names in Unicode."""
    scripts: Counter[str] = Counter()
    characters = Counter(character for text in sample for character in text)
    for character, count in characters.items():
        if character.isalpha():
            scripts[unicodedata.name(character, "none").split()[0]] += count
    return scripts
