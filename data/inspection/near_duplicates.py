"""Find documents that are nearly the same, by MinHash (Broder 1997) and an exact comparison of what it finds."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import xxhash
from datasketch import MinHash, MinHashLSH

from data.collection import is_empty
from data.inspection.content import Content, Limits, Text, spread_evenly
from data.inspection.finding import Finding, counted, first_few, shorten
from data.inspection.texts import equal
from data.inspection.unspaced import WORD as LETTER_OR_WORD
from data.inspection.unspaced import is_unspaced
from data.progress import show_progress

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
    known = NearDuplicates()
    for key, text in show_progress(texts.items(), "comparing documents", len(texts), "documents"):
        if (near := known.add(key, text)) is not None:
            yield near[0], key, near[1]


class NearDuplicates:
    """Texts that are added one by one, and which earlier one each is near to: with a Jaccard similarity of at least
    `similar`. It needs about 8 KiB of memory a text of 200 words, and does not keep the texts."""

    def __init__(self, similar: float = SIMILAR) -> None:
        self._similar = similar
        threshold = max(similar - (SIMILAR - CANDIDATES), 0.1)
        self._index = MinHashLSH(threshold=threshold, num_perm=NUM_PERM)
        self._empty = MinHash(num_perm=NUM_PERM, hashfunc=zlib.crc32)
        self._parts: dict[str, np.ndarray] = {}

    def add(self, key: str, text: str) -> tuple[str, float] | None:
        """The first earlier text that this one is near to, with the similarity; None if there is none, or it is
        short."""
        found = shingles(text)
        if not found:
            return None
        encoded = [shingle.encode(errors="surrogatepass") for shingle in found]
        sketch = self._empty.copy()
        sketch.update_batch(encoded)
        own = np.sort(np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), np.uint64, len(encoded)))
        near = None
        for other in self._index.query(sketch):
            shared = len(np.intersect1d(own, self._parts[other], assume_unique=True))
            share = shared / (len(own) + len(self._parts[other]) - shared)
            if share >= self._similar:
                near = other, share
                break
        self._parts[key] = own
        self._index.insert(key, sketch)
        return near


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
