"""Words and letters of texts, some of which are in scripts that are written without spaces."""

from __future__ import annotations

import re

# Han, kana, Thai, Lao, Khmer and Burmese letters. Korean has spaces.
LETTER = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    "\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff"
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"
    "\u1780-\u17b3\u1000-\u102a\u1050-\u1055\uaa60-\uaa76"
)
UNSPACED = re.compile(f"[{LETTER}]")
WORD = re.compile(rf"[{LETTER}]|[^\W{LETTER}]+")  # a letter of these scripts, or a word of another one
MIN_SHARE = 0.3  # of the letters of a text, from which it is one without spaces


def is_unspaced(text: str) -> bool:
    """Whether a text is written without spaces, but for words of other scripts in it."""
    if text.isascii() or not (number := len(UNSPACED.findall(text))):
        return False
    return number >= MIN_SHARE * sum(map(str.isalpha, text))


def count_words(text: str) -> int:
    """The number of words. In a text without spaces each letter counts as one.

    >>> [count_words(text) for text in ("two words", "\\u5317\\u4eac\\u662f, 2008", "see \\u5317\\u4eac there")]
    [2, 4, 3]
    """
    return len(WORD.findall(text)) if is_unspaced(text) else len(text.split())
