"""Sentences, by their final signs: enough to cut a text where its meaning ends."""

from __future__ import annotations

import re

# A full stop before a capital, a digit or a quote ends a sentence, unless an abbreviation or an initial has it. The
# signs of Chinese and Japanese end one anywhere, those of Devanagari, Arabic and Burmese before white space.
END = re.compile(
    r"""(?<!\b[A-Z])(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<!\betc)(?<!\bal)(?<!\bFig)(?<!\bDr)(?<!\bMr)(?<!\bNo)
    [.!?]["')\]\u201d\u2019]*(?=\s+["'(\[\u201c\u2018]?[^\Wa-z]|\s*$)
    |[\u3002\uff01\uff1f\uff61][\u300d\u300f\u201d\uff09]?
    |[\u0964\u06d4\u061f\u104b](?=\s|$)""",
    re.VERBOSE,
)


def first_sentence(text: str) -> str:
    """The first sentence of a text with its final sign; all of a text that has none.

    >>> [first_sentence(text) for text in ("Dr. No sings. Well.", "no end")]
    ['Dr. No sings.', 'no end']
    """
    end = END.search(text)
    return text if end is None else text[: end.end()]


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with the white space after it: joined they are the text.

    >>> sentences_of("One. Two?  Three")
    ['One. ', 'Two?  ', 'Three']
    """
    found, start = [], 0
    for end in END.finditer(text):
        stop = end.end()
        while stop < len(text) and text[stop].isspace():
            stop += 1
        found.append(text[start:stop])
        start = stop
    return [*found, text[start:]] if start < len(text) else found
