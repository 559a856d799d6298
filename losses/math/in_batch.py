"""A batch of candidate lists as pairs (query, positive document) against all queries and documents. InfoNCE, SigLIP and
the triplet loss are computed on it.

Pairs are computed in blocks whose intermediate matrices are recomputed in the backward. So a step of thousands of
queries never holds a [queries, documents] matrix: memory grows with the number of texts, not with its square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from losses.contracts import mean_over_lists
from losses.math.masking import at_least_float32
from losses.math.similarity import Similarity

IN_BATCH = ("all", "positives", "none")  # which documents of the other lists are negatives
ELEMENTS_PER_BLOCK = 2**19  # of the matrices of similarities: 2 MiB in float32


@dataclass(frozen=True)
class InBatch:
    """Q queries, the D documents of all lists in a row, and the P pairs of a query and a relevant document of its list.

    Two texts are the same if their hashes are; without hashes all texts differ.
    """

    queries: Tensor  # [Q, dim], at least float32
    present: Tensor  # [Q] bool: the list has a document; a list of padding has no query either
    documents: Tensor  # [D, dim]
    list_of: Tensor  # [D] int64: the list (query) that a document belongs to
    relevant: Tensor  # [D] bool: the label is above 0
    pair_queries: Tensor  # [P] int64
    pair_documents: Tensor  # [P] int64
    query_ids: Tensor  # [Q] int64, 0 to their number - 1: equal for equal texts
    document_ids: Tensor  # [D] int64
    similarity: Similarity

    @classmethod
    def of(
        cls,
        queries: Tensor,
        documents: Tensor,
        labels: Tensor,
        mask: Tensor,
        similarity: Similarity,
        query_hashes: Tensor | None = None,
        document_hashes: Tensor | None = None,
    ) -> InBatch:
        """queries [Q, dim], documents [Q, n, dim], labels and mask [Q, n], hashes [Q] and [Q, n] or None."""
        relevant = labels[mask] > 0
        list_of = mask.nonzero()[:, 0]
        pair_documents = relevant.nonzero()[:, 0]
        return cls(
            queries=at_least_float32(queries),
            present=mask.any(dim=1),
            documents=at_least_float32(documents[mask]),
            list_of=list_of,
            relevant=relevant,
            pair_queries=list_of[pair_documents],
            pair_documents=pair_documents,
            query_ids=_ids(query_hashes, len(queries), mask.device),
            document_ids=_ids(None if document_hashes is None else document_hashes[mask], len(relevant), mask.device),
            similarity=similarity,
        )

    def similarities(self, queries: Tensor) -> Tensor:
        """queries [B] int64 -> [B, D]: with every document."""
        return self.similarity.matrix(self.queries[queries], self.documents)

    def own(self, queries: Tensor) -> Tensor:
        """queries [B] int64 -> [B, D] bool: the document stands in the query's list."""
        return self.list_of == queries.unsqueeze(1)

    def negative_documents(self, queries: Tensor, in_batch: str) -> Tensor:
        """queries [B] int64 -> [B, D] bool: documents of its list and, by `in_batch`, of others; none known as a
        positive."""
        own = self.own(queries)
        others = {"all": ~own, "positives": ~own & self.relevant, "none": torch.zeros_like(own)}[in_batch]
        return (own | others) & ~self.known_documents(queries)

    def negative_queries(self, documents: Tensor) -> Tensor:
        """documents [B] int64 -> [B, Q] bool: the queries that the document is not known as a positive of."""
        return self.present & ~self.known_queries(documents)

    def known_documents(self, queries: Tensor) -> Tensor:
        """queries [B] int64 -> [B, D] bool: the document's text is relevant for the query's text, by any list."""
        return self._known(queries, self.query_ids, self.pair_queries, self.document_ids, self.pair_documents)

    def known_queries(self, documents: Tensor) -> Tensor:
        """documents [B] int64 -> [B, Q] bool: the same, the other way around."""
        return self._known(documents, self.document_ids, self.pair_documents, self.query_ids, self.pair_queries)

    @staticmethod
    def _known(rows: Tensor, row_ids: Tensor, pair_rows: Tensor, column_ids: Tensor, pair_columns: Tensor) -> Tensor:
        row, pair = (row_ids[rows].unsqueeze(1) == row_ids[pair_rows]).nonzero(as_tuple=True)
        known = row_ids.new_zeros(len(rows), len(column_ids), dtype=torch.bool)  # as many ids as columns, or fewer
        known[row, column_ids[pair_columns][pair]] = True
        return known[:, column_ids]

    def in_blocks(self, function: Callable[[Tensor], Tensor], num_rows: int, num_columns: int) -> Tensor:
        """`function(rows [B] int64) -> [B]` for rows 0 to num_rows - 1; a block's matrices are freed before the next.

        num_columns: elements that `function` computes for a row, which bound B.
        """
        rows = torch.arange(num_rows, device=self.queries.device)
        blocks = rows.split(max(1, ELEMENTS_PER_BLOCK // max(1, num_columns)))
        return torch.cat(
            [checkpoint(function, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
        )

    def mean_over_queries(self, values: Tensor, weights: Tensor | None) -> Tensor:
        """values [P] -> scalar: mean over a query's pairs, then (weighted) over the queries that have one."""
        counts = torch.bincount(self.pair_queries, minlength=len(self.queries))
        sums = values.new_zeros(len(self.queries)).index_add(0, self.pair_queries, values)
        return mean_over_lists(sums / counts.clamp(min=1), counts > 0, weights)


def _ids(hashes: Tensor | None, number: int, device: torch.device) -> Tensor:
    return torch.arange(number, device=device) if hashes is None else hashes.unique(return_inverse=True)[1]
