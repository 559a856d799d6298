"""The text of a file in an encoding that nobody has named."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from data.documents.latin import latin_encoding
from data.documents.needed import needed
from data.languages import letters_by_script

MARKS = (  # the longest first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
SAMPLED = 2**18  # bytes by which an encoding is guessed
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # bytes that no text has; \x1b is in ISO-2022-JP
MAX_CONTROLS = 0.01  # share of them, beyond which a file is no text: extracted texts have stray ones


class Decoded(NamedTuple):
    """A text, and the encoding that was guessed for it; empty if the bytes say what they are."""

    text: str
    guessed: str = ""


def read_decoded(path: Path) -> Decoded:
    """The text of a file: by its byte order mark, as UTF-8, or in an encoding that is guessed (`_guessed`).

    Raises ValueError, without the place, if the file is binary or its encoding cannot be told.
    """
    text, guessed = decoded(path.read_bytes())
    return Decoded(text.replace("\r\n", "\n").replace("\r", "\n"), guessed)


def decoded(content: bytes) -> Decoded:
    """The text of these bytes (see `read_decoded`)."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            try:
                return Decoded(content.decode(encoding))
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"not {encoding.upper()}, which its byte order mark says ({error.reason}): save it as UTF-8"
                ) from None
    check_is_text(content)
    try:
        return Decoded(content.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    guessed = _guessed(content[:SAMPLED])
    return Decoded(content.decode(guessed, errors="replace"), guessed)


def check_is_text(content: bytes) -> None:
    """Raise ValueError, without the place, if bytes without a byte order mark are binary."""
    sample = content[:SAMPLED]
    if b"\0" in sample or len(CONTROLS.findall(sample)) > MAX_CONTROLS * len(sample):
        raise ValueError("binary: no text")


def _guessed(sample: bytes) -> str:
    """The encoding that charset-normalizer finds. It cannot tell those of Latin letters apart ("été" is a word in any
    of them), so these are chosen by the letters of the languages.

    Raises ValueError if there is none.
    """
    best = needed("charset_normalizer").from_bytes(sample).best()
    if best is None:
        raise ValueError("its encoding cannot be told: save it as UTF-8")
    letters = letters_by_script([str(best)])
    is_latin = 2 * letters.get("LATIN", 0) > sum(letters.values())
    return latin_encoding(sample, [best.encoding]) if is_latin else str(best.encoding)
