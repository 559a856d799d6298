"""How a tokenizer reads the texts of a collection: lengths, words, unknown tokens, broken terms, vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.function_words import FUNCTION_WORDS
from data.inspection.content import spread_evenly
from data.inspection.tokens import BATCH, MAX_CHARACTERS
from data.inspection.unspaced import LETTER, count_words
from data.languages import stop_words
from data.progress import show_progress

SAMPLE = 20_000  # documents whose tokens are counted
TERMS = 1000  # characteristic words of the documents
MOST_DOCUMENTS = 0.25  # share of the documents that have a characteristic word: others are of the language
LEAST_DOCUMENTS = 2
SHOWN = 30  # broken terms that are listed
PIECES = 3  # from which a term is broken
CARRIER = "the"  # a word before a term, which tokenizers read otherwise at the beginning of a text
WORDS = re.compile(rf"[{LETTER}]{{2,}}|[^\W\d_{LETTER}][^\W_{LETTER}]{{2,}}")


@dataclass(frozen=True)
class Sample:
    """The texts that are counted, and the characteristic words of the documents with their numbers of documents."""

    documents: Sequence[str]
    queries: Sequence[str]
    terms: Mapping[str, int]
    of_documents: int

    @classmethod
    def of(cls, documents: Sequence[str], queries: Sequence[str]) -> Sample:
        """Take at most `SAMPLE` documents, evenly spread, and all queries."""
        chosen = [text[:MAX_CHARACTERS] for text in spread_evenly(documents, SAMPLE)]
        asked = [text[:MAX_CHARACTERS] for text in queries]
        return cls(chosen, asked, characteristic_terms(chosen), len(documents))


def characteristic_terms(documents: Sequence[str]) -> dict[str, int]:
    """The words that most documents have, but for function words, words of more than a quarter of the documents, and
    words of a single one. In scripts without spaces they are pairs of neighbouring letters."""
    counts: Counter[str] = Counter()
    for text in show_progress(documents, "counting words", len(documents), "documents"):
        counts.update({term for word in WORDS.findall(text) for term in _terms(word)})
    common = {word for languages in FUNCTION_WORDS.values() for text in languages.values() for word in text.split()}
    common |= stop_words("english")
    most = max(MOST_DOCUMENTS * len(documents), LEAST_DOCUMENTS)
    kept = (pair for pair in counts.items() if LEAST_DOCUMENTS <= pair[1] <= most and pair[0] not in common)
    return dict(sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:TERMS])


def _terms(word: str) -> list[str]:
    if re.match(f"[{LETTER}]", word):
        return [word[place : place + 2] for place in range(len(word) - 1)]
    return [word.lower()]


def read_by(tokenizer: Any, sample: Sample) -> dict[str, Any] | None:
    """What `tokenizer` makes of the texts, in JSON types; None if it does not count tokens."""
    if not hasattr(tokenizer, "token_ids"):
        return None
    documents, used = _rows(tokenizer, sample.documents)
    queries, of_queries = _rows(tokenizer, sample.queries)
    words = sum(map(count_words, sample.documents)) + sum(map(count_words, sample.queries))
    total = int(documents[:, 0].sum() + queries[:, 0].sum())
    unknown = int(documents[:, 1].sum() + queries[:, 1].sum())
    broken = broken_terms(tokenizer, sample.terms)
    size = tokenizer.vocabulary_size
    return {
        "document_tokens": percentiles(documents[:, 0]),
        "query_tokens": percentiles(queries[:, 0]),
        "sampled_documents": len(sample.documents),
        "corpus_tokens": int(documents[:, 0].sum() * sample.of_documents / max(len(sample.documents), 1)),
        "tokens_per_word": total / max(words, 1),
        "unknown_tokens": unknown / max(total, 1),
        "terms": len(sample.terms),
        "broken_terms": len(broken) / max(len(sample.terms), 1),
        "broken_examples": broken[:SHOWN],
        "vocabulary": size,
        "vocabulary_used": len(used | of_queries) / size,
    }


def _rows(tokenizer: Any, texts: Sequence[str]) -> tuple[np.ndarray, set[int]]:
    """The numbers of tokens and of unknown ones of each text [texts, 2], and the tokens that occur."""
    unknown, counts = tokenizer.tokenizer.unk_token_id, []
    used: set[int] = set()
    starts = range(0, len(texts), BATCH)
    for start in show_progress(starts, "counting tokens", len(starts)):
        for row in tokenizer.token_ids(list(texts[start : start + BATCH])):
            counts.append((len(row), 0 if unknown is None else row.count(unknown)))
            used.update(row)
    return np.array(counts, dtype=np.int64).reshape(-1, 2), used


def percentiles(values: np.ndarray) -> dict[str, int]:
    """The 50th, 90th and 99th percentile and the largest of whole numbers."""
    if not len(values):
        return {}
    found = np.percentile(values, (50, 90, 99), method="higher")
    return {"p50": int(found[0]), "p90": int(found[1]), "p99": int(found[2]), "max": int(values.max())}


def broken_terms(tokenizer: Any, terms: Mapping[str, int]) -> list[dict[str, Any]]:
    """The terms that are read as at least `PIECES` tokens, or have an unknown one, those of most documents first."""
    names = list(terms)
    if not names:
        return []
    carrier = tokenizer.count_tokens([CARRIER])[0][0]
    counted = tokenizer.count_tokens([f"{CARRIER} {name}" for name in names])
    pieces = {name: (count - carrier, unknown) for name, (count, unknown) in zip(names, counted, strict=True)}
    return [
        {"term": name, "documents": terms[name], "tokens": count, "unknown": unknown > 0}
        for name, (count, unknown) in pieces.items()
        if count >= PIECES or unknown
    ]
