"""In-batch negatives: pairs (query, positive document) compared with all queries and documents of a batch.

InfoNCE, SigLIP and the triplet loss use it. Pairs are computed in blocks whose intermediate matrices are recomputed in
the backward. So a step of thousands of queries never holds a [queries, documents] matrix: memory grows with the number
of texts, not with its square.
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
ELEMENTS_PER_BLOCK = 2**19  # elements of a block's similarity matrix: 2 MiB in float32


@dataclass(frozen=True)
class InBatch:
    """Q queries, the D documents of all lists, and the P pairs of a query and a relevant document of its list.

    Two texts are equal if their hashes are; without hashes all texts count as different. Padding is left out.
    """

    queries: Tensor  # [Q, dim], at least float32
    has_documents: Tensor  # [Q] bool: the list has a document. A list of padding only has no query either
    documents: Tensor  # [D, dim]
    list_index: Tensor  # [D] int64: the list (query) that a document belongs to
    relevant: Tensor  # [D] bool: the label is above 0
    pair_queries: Tensor  # [P] int64
    pair_documents: Tensor  # [P] int64
    query_ids: Tensor  # [Q] int64, 0 to their number - 1: equal for equal texts
    document_ids: Tensor  # [D] int64
    similarity: Similarity

    @classmethod
    def from_lists(
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
        list_index = mask.nonzero()[:, 0]
        pair_documents = relevant.nonzero()[:, 0]
        return cls(
            queries=at_least_float32(queries),
            has_documents=mask.any(dim=1),
            documents=at_least_float32(documents[mask]),
            list_index=list_index,
            relevant=relevant,
            pair_queries=list_index[pair_documents],
            pair_documents=pair_documents,
            query_ids=_ids(query_hashes, len(queries), mask.device),
            document_ids=_ids(None if document_hashes is None else document_hashes[mask], len(relevant), mask.device),
            similarity=similarity,
        )

    def similarities(self, queries: Tensor) -> Tensor:
        """Return the similarity of queries [B] int64 to every document, [B, D]."""
        return self.similarity.matrix(self.queries[queries], self.documents)

    def in_own_list(self, queries: Tensor) -> Tensor:
        """queries [B] int64 -> [B, D] bool: the document is in the query's list."""
        return self.list_index == queries.unsqueeze(1)

    def negative_documents(self, queries: Tensor, in_batch: str) -> Tensor:
        """queries [B] int64 -> [B, D] bool: documents of the query's list and, by `in_batch`, of other lists, without
        the query's positives."""
        own = self.in_own_list(queries)
        others = {"all": ~own, "positives": ~own & self.relevant, "none": torch.zeros_like(own)}[in_batch]
        return (own | others) & ~self.positive_documents(queries)

    def negative_queries(self, documents: Tensor) -> Tensor:
        """documents [B] int64 -> [B, Q] bool: the queries for which the document is no positive."""
        return self.has_documents & ~self.positive_queries(documents)

    def positive_documents(self, queries: Tensor) -> Tensor:
        """queries [B] int64 -> [B, D] bool: some list of the batch says that the document's text is relevant for the
        query's text."""
        return self._positives(queries, self.query_ids, self.pair_queries, self.document_ids, self.pair_documents)

    def positive_queries(self, documents: Tensor) -> Tensor:
        """documents [B] int64 -> [B, Q] bool: some list of the batch says that the document's text is relevant for the
        query's text."""
        return self._positives(documents, self.document_ids, self.pair_documents, self.query_ids, self.pair_queries)

    @staticmethod
    def _positives(
        rows: Tensor, row_ids: Tensor, pair_rows: Tensor, column_ids: Tensor, pair_columns: Tensor
    ) -> Tensor:
        row, pair = (row_ids[rows].unsqueeze(1) == row_ids[pair_rows]).nonzero(as_tuple=True)
        positive = row_ids.new_zeros(len(rows), len(column_ids), dtype=torch.bool)  # at most one id per column
        positive[row, column_ids[pair_columns][pair]] = True
        return positive[:, column_ids]

    def compute_in_blocks(self, function: Callable[[Tensor], Tensor], num_rows: int, num_columns: int) -> Tensor:
        """Call `function(rows [B] int64) -> [B]` block by block for rows 0 to num_rows - 1, and return [num_rows].

        The matrices of a block are freed before the next block. num_columns: the number of elements that `function`
        computes per row; it limits B.
        """
        rows = torch.arange(num_rows, device=self.queries.device)
        blocks = rows.split(max(1, ELEMENTS_PER_BLOCK // max(1, num_columns)))
        return torch.cat(
            [checkpoint(function, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
        )

    def mean_over_queries(self, values: Tensor, weights: Tensor | None) -> Tensor:
        """values [P] -> scalar: the mean over each query's pairs, then the (weighted) mean over queries with a pair."""
        counts = torch.bincount(self.pair_queries, minlength=len(self.queries))
        sums = values.new_zeros(len(self.queries)).index_add(0, self.pair_queries, values)
        return mean_over_lists(sums / counts.clamp(min=1), counts > 0, weights)


def _ids(hashes: Tensor | None, number: int, device: torch.device) -> Tensor:
    return torch.arange(number, device=device) if hashes is None else hashes.unique(return_inverse=True)[1]
