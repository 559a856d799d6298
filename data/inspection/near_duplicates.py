"""Find documents that are nearly the same, by MinHash (Broder 1997) and an exact comparison of what it finds."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping

from datasketch import MinHash, MinHashLSH

from data.collection import is_empty
from data.inspection.content import Content, Limits, Text, spread_evenly
from data.inspection.finding import Finding, counted, first_few, shorten
from data.inspection.texts import equal
from data.inspection.unspaced import WORD as LETTER_OR_WORD
from data.inspection.unspaced import is_unspaced

SIMILAR = 0.8  # least Jaccard similarity of near-duplicates
CANDIDATES = 0.7  # of candidates for it, which MinHash only estimates
NUM_PERM = 128
SHINGLE = 3  # words, or twice as many letters of a script without spaces
MIN_WORDS = 12  # shorter texts share most of their words by chance; twice as many letters
MAX_CHARACTERS = 5_000  # of a text that are compared
WORD = re.compile(r"\w+")


def find_near_duplicates(content: Content, limits: Limits) -> Iterator[Finding]:
    """The finding about documents that share most runs of words with another one, but are not equal to it."""
    copies = {key for key, _ in equal(content.documents)}
    texts = {key: text for key, text in content.documents.items() if key not in copies and not is_empty(text.text)}
    chosen = spread_evenly(list(texts), limits.compared)
    pairs = list(near_pairs({key: texts[key].text[:MAX_CHARACTERS] for key in chosen}))
    if not pairs:
        return
    sampled = f" (in a sample of {len(chosen):,} of {len(texts):,})" * (len(chosen) < len(texts))
    number = len({key for _, key, _ in pairs})
    shown = [
        f"{_name(content, key)}: {share:.0%} as {_name(content, first)}: {_start(texts[key])}"
        for first, key, share in pairs
    ]
    yield Finding(
        "note",
        "near-duplicate documents",
        f"{counted(number, 'document')} of {len(chosen):,} with at least {SIMILAR:.0%} of the runs of {SHINGLE} "
        f"words of another one{sampled}",
        "if they say the same, keep one of them: the other is taken as a negative",
        first_few(shown),
    )


def near_pairs(texts: Mapping[str, str]) -> Iterator[tuple[str, str, float]]:
    """The pairs of keys of texts with a Jaccard similarity of at least SIMILAR, and that similarity; of each text the
    first one that it is near to.

    >>> words = [f"word{i}" for i in range(60)]
    >>> found = near_pairs({"a": " ".join(words), "b": " ".join([*words[:-1], "end"]), "c": " ".join(words[::-1])})
    >>> [(first, second, round(share, 2)) for first, second, share in found]
    [('a', 'b', 0.97)]
    """
    parts = {key: found for key, text in texts.items() if (found := shingles(text))}
    if len(parts) < 2:
        return
    index = MinHashLSH(threshold=CANDIDATES, num_perm=NUM_PERM)
    encoded = ([shingle.encode() for shingle in found] for found in parts.values())
    hashes = MinHash.generator(encoded, num_perm=NUM_PERM, hashfunc=zlib.crc32)
    for (key, found), sketch in zip(parts.items(), hashes, strict=True):
        for other in index.query(sketch):
            share = len(found & parts[other]) / len(found | parts[other])
            if share >= SIMILAR:
                yield other, key, share
                break
        index.insert(key, sketch)


def shingles(text: str) -> set[str]:
    """The runs of SHINGLE words of a text, or of twice as many letters if it has no spaces; none of a short text."""
    letters = is_unspaced(text)
    words = (LETTER_OR_WORD if letters else WORD).findall(text.casefold())
    size, least = (2 * SHINGLE, 2 * MIN_WORDS) if letters else (SHINGLE, MIN_WORDS)
    if len(words) < least:
        return set()
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}


def _name(content: Content, key: str) -> str:
    return repr(key) if content.has_ids else content.documents[key].where


def _start(text: Text) -> str:
    return shorten(text.text, 60)
