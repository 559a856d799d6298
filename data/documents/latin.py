"""Which of the encodings of one byte a text in Latin letters has: by the letters of the languages."""

from __future__ import annotations

from collections.abc import Sequence

# By encoding, the likelier first: the letters beyond ASCII of the languages that are written in it.
ALPHABETS = {
    "cp1252": (
        *("àâæçéèêëîïôœùûüÿ", "äöüß", "áéíñóúüºª¿¡", "àáâãçéêíóôõúºª", "àèéìíîòóùú", "åäöé", "æøåéòô", "áéíóúýþæöð"),
        *("àçèéíïòóúü", "áéèëïíöóü", "áéíóú"),
    ),
    "cp1250": ("ąćęłńóśźż", "áčďéěíňóřšťúůýžäľĺôŕ", "áéíóöőúüű", "ăâîşţ", "čćđšž"),
    "cp1254": ("çğıİöşüâîû",),
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņōŗšūž", "äöõüšž"),
    "iso8859-2": ("ąćęłńóśźż", "áčďéěíňóřšťúůýžäľĺôŕ", "áéíóöőúüű", "ăâîşţ", "čćđšž"),
}
SIGNS = frozenset("\u00a0\u00ad«»‹›“”„‘’‚–—…€§©®™°·•±×÷µ¡†‡‰´`")  # of any language  # noqa: RUF001
NOT_BEFORE_LETTERS = frozenset("¹²³¼½¾¿£¥")  # signs too, but before a letter they are one that is read wrongly


def latin_encoding(content: bytes, guessed: Sequence[str]) -> str:
    """The encoding of ALPHABETS, or of those that were `guessed`, whose letters beyond ASCII are best those of a single
    language; the first of equals.

    >>> latin_encoding("fêtes d'été".encode("latin-1"), ["cp1257"]), latin_encoding("główna".encode("cp1250"), [])
    ('cp1252', 'cp1250')
    """
    shares = {encoding: _share(content, encoding) for encoding in (*ALPHABETS, *guessed)}
    return max(shares, key=lambda encoding: shares[encoding])


def _share(content: bytes, encoding: str) -> float:
    """The share of the letters and signs beyond ASCII that the language that has most of them has; -1 if the bytes are
    not of this encoding."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return -1.0
    beyond = [
        sign
        for sign, following in zip(text, [*text[1:], ""], strict=True)
        if not (sign.isascii() or sign in SIGNS or (sign in NOT_BEFORE_LETTERS and not following.isalpha()))
    ]
    alphabets = ALPHABETS.get(encoding) or [each for several in ALPHABETS.values() for each in several]
    most = max(sum(sign in own or sign.lower() in own for sign in beyond) for own in alphabets)
    return most / len(beyond) if beyond else 1.0
