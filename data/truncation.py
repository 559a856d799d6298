"""How many queries and documents are longer than the model reads, and were cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

LIMITS = "limits"  # the key of the lengths by option in summary.json
WARN_SHARE = 0.1  # share of the queries, or of the documents, above which a line is a warning


@dataclass(frozen=True)
class Truncation:
    """Counts of queries and documents, and of those among them that were cut.

    A reranker reads a document with every query that it is a candidate of: it counts once for each of these lists.
    """

    queries: int = 0
    cut_queries: int = 0
    documents: int = 0
    cut_documents: int = 0

    @classmethod
    def of_rows(cls, truncated: np.ndarray | None, sizes: Sequence[int], documents: int) -> Truncation | None:
        """Count the rows of lists, list i having `sizes[i]` rows, and `documents` in all of them.

        truncated: [rows, 2], the tokens cut from query and document of each row (`data.batch.TokenSequences`); None:
        the tokenizer does not count them, and neither does this.
        """
        if truncated is None:
            return None
        starts = np.cumsum([0, *sizes])[:-1][np.array(sizes, dtype=int) > 0]
        cut = truncated > 0
        cut_queries = int(np.logical_or.reduceat(cut[:, 0], starts).sum()) if len(starts) else 0
        return cls(len(sizes), cut_queries, documents, int(cut[:, 1].sum()))

    @classmethod
    def of_texts(cls, truncated: np.ndarray | None, chosen: np.ndarray, queries: int) -> Truncation | None:
        """Count the `chosen` rows (bool) of texts that are rows of their own: the first `queries` rows are queries."""
        if truncated is None:
            return None
        cut = (truncated > 0).any(axis=1) & chosen
        first, others = chosen[:queries], chosen[queries:]
        return cls(int(first.sum()), int(cut[:queries].sum()), int(others.sum()), int(cut[queries:].sum()))

    def __add__(self, other: Truncation) -> Truncation:
        return Truncation(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    @property
    def query_share(self) -> float:
        return self.cut_queries / max(self.queries, 1)

    @property
    def document_share(self) -> float:
        return self.cut_documents / max(self.documents, 1)

    @property
    def is_large(self) -> bool:
        """Whether so many are cut that it should be a warning."""
        return max(self.query_share, self.document_share) > WARN_SHARE

    def __str__(self) -> str:
        parts = ((self.cut_queries, self.queries, "queries"), (self.cut_documents, self.documents, "documents"))
        return " and ".join(f"{cut:,} of {total:,} {what} ({cut / total:.1%})" for cut, total, what in parts if total)


def limits_of(tokenizer: Any) -> Mapping[str, int]:
    """The most tokens of a query and of a document by the option that sets them; one entry if that is `max_length`. A
    model from outside may know no other."""
    return getattr(tokenizer, "limits", None) or {"model.max_length": tokenizer.max_length}


def summary_of(counts: Mapping[str, Truncation | None], limits: Mapping[str, int]) -> dict[str, Any]:
    """The counts in JSON types, as summary.json holds them under `truncated`; what is not counted is left out.
    `limits`: those of `cut_line`, which are written too if they are two."""
    written = {"max_length": max(limits.values()), **({LIMITS: dict(limits)} if len(limits) > 1 else {})}
    return {**written, **{name: asdict(count) for name, count in counts.items() if count}}


def line_of_summary(truncated: Mapping[str, Any]) -> str:
    """`cut_line` of such counts."""
    counts = {name: Truncation(**count) for name, count in truncated.items() if name not in ("max_length", LIMITS)}
    return cut_line(counts, truncated.get(LIMITS) or {"model.max_length": truncated["max_length"]})


def cut_line(counts: Mapping[str, Truncation | None], limits: Mapping[str, int]) -> str:
    """One line about the texts that were cut, by what they are used for; empty if none was. It starts with "warning:"
    if they are many.

    `limits`: the most tokens of a query and of a document by the option that sets them, or of both by one option.
    """
    cut = {name: count for name, count in counts.items() if count and (count.cut_queries or count.cut_documents)}
    if not cut:
        return ""
    many = any(count.is_large for count in cut.values())
    said = "; ".join(f"{name} {count}".lstrip() for name, count in cut.items())
    options = list(limits)
    if len(options) > 1:  # only those that cut a text
        cuts = [any(count.cut_queries for count in cut.values()), any(count.cut_documents for count in cut.values())]
        options = [option for option, has_cut in zip(options, cuts, strict=True) if has_cut]
    lengths = " or ".join(f"{option}={limits[option]}" for option in options)
    remedy = f" (raise {' or '.join(options)} if the model reads more, or divide long documents into passages)" * many
    return f"{'warning' if many else 'note'}: longer than {lengths} tokens and cut: {said}{remedy}"
