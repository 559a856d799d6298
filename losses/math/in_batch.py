"""In-batch negatives: pairs (query, positive document) compared with all queries and documents of a batch.

InfoNCE, SigLIP and the triplet loss use it. Pairs are computed in blocks whose intermediate matrices are recomputed in
the backward. So a step of thousands of queries never holds a [queries, documents] matrix: memory grows with the number
of texts, not with its square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from losses.contracts import mean_over_lists
from losses.math.masking import at_least_float32, on_host, rows_where
from losses.math.similarity import Similarity

IN_BATCH = ("all", "positives", "none")  # which documents of the other lists are negatives
TEXT_INPUTS = ("query_hashes", "document_hashes", "never_negatives")  # fields of LossInputs that tell texts apart
ELEMENTS_PER_BLOCK = 2**19  # elements of a block's similarity matrix: 2 MiB in float32


@dataclass(frozen=True)
class Relation:
    """Which of C columns belong to each of R rows. The columns of row i are columns[starts[i] : starts[i + 1]]."""

    starts: Tensor  # [R + 1] int64
    columns: Tensor  # [pairs] int64
    num_columns: int
    longest: int  # the largest number of columns of a row

    @classmethod
    def of_pairs(cls, rows: Tensor, columns: Tensor, num_rows: int, num_columns: int, device: torch.device) -> Relation:
        """rows, columns: [pairs] int64 of the host, in any order and with repetitions. `device`: of `matrix`."""
        pairs = (rows * num_columns + columns).unique()
        starts = torch.searchsorted(pairs, torch.arange(num_rows + 1) * num_columns)
        longest = int(starts.diff().max()) if num_rows else 0
        # A column more, which belongs to none: where a row with fewer columns than the longest has none.
        columns = torch.cat([pairs % max(1, num_columns), torch.tensor([num_columns])])
        moved = [values.to(device, non_blocking=True) for values in (starts, columns)]
        return cls(moved[0], moved[1], num_columns, longest)

    def matrix(self, rows: Tensor) -> Tensor:
        """rows [B] int64 -> [B, C] bool: the column belongs to the row."""
        place = self.starts[rows].unsqueeze(1) + torch.arange(self.longest, device=rows.device)
        place = place.where(place < self.starts[rows + 1].unsqueeze(1), len(self.columns) - 1)
        found = rows.new_zeros(len(rows), self.num_columns + 1, dtype=torch.bool)
        return found.scatter_(1, self.columns[place], True)[:, :-1]


@dataclass(frozen=True)
class InBatch:
    """Q queries, the D documents of all lists, and the P pairs of a query and a relevant document of its list.

    Two texts are equal if their hashes are; without hashes all texts count as different. Padding is left out.
    `never_queries` and `never_documents` are the pairs of ids that are no negatives: those of the P pairs, and those
    that the data judge relevant or exclude. An isolated list has no negatives of other lists, and gives them none.
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
    never_queries: Tensor  # [pairs] int64, query ids; on the host
    never_documents: Tensor  # [pairs] int64, document ids; on the host
    isolated: Tensor  # [Q] bool
    any_isolated: bool
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
        never_negatives: Tensor | None = None,
        isolated: Tensor | None = None,
    ) -> InBatch:
        """queries [Q, dim], documents [Q, n, dim], labels and mask [Q, n], hashes [Q] and [Q, n] or None.

        never_negatives: [any, 2] int64, pairs of a list and the hash of a text, or None; it needs the hashes. isolated:
        [Q] bool, or None if no list is.
        """
        # Which texts are compared is worked out on the host: it would wait for a GPU to learn each number of texts.
        device, on_cpu = queries.device, on_host(mask)
        relevant = on_host(labels)[on_cpu] > 0
        list_index = on_cpu.nonzero()[:, 0]
        pair_documents = relevant.nonzero()[:, 0]
        pair_queries = list_index[pair_documents]
        query_ids, _ = _ids(None if query_hashes is None else on_host(query_hashes), len(queries))
        document_ids, texts = _ids(None if document_hashes is None else on_host(document_hashes)[on_cpu], len(relevant))
        never_queries, never_documents = query_ids[pair_queries], document_ids[pair_documents]
        if never_negatives is not None:
            excluded = on_host(never_negatives)
            of_list, hashes = excluded[torch.isin(excluded[:, 1], texts)].unbind(1)
            never_queries = torch.cat([never_queries, query_ids[of_list]])
            never_documents = torch.cat([never_documents, torch.searchsorted(texts, hashes.contiguous())])
        alone = torch.zeros(len(queries), dtype=torch.bool) if isolated is None else on_host(isolated)
        known = {
            "has_documents": on_cpu.any(dim=1),
            "list_index": list_index,
            "relevant": relevant,
            "pair_queries": pair_queries,
            "pair_documents": pair_documents,
            "query_ids": query_ids,
            "document_ids": document_ids,
            "isolated": alone,
        }
        return cls(
            queries=at_least_float32(queries),
            documents=at_least_float32(rows_where(documents, mask)),
            never_queries=never_queries,
            never_documents=never_documents,
            any_isolated=bool(alone.any()),
            similarity=similarity,
            **{name: value.to(device, non_blocking=True) for name, value in known.items()},
        )

    def similarities(self, queries: Tensor) -> Tensor:
        """Return the similarity of queries [B] int64 to every document, [B, D]."""
        return self.similarity.matrix(self.queries[queries], self.documents)

    def in_own_list(self, queries: Tensor) -> Tensor:
        """queries [B] int64 -> [B, D] bool: the document is in the query's list."""
        return self.list_index == queries.unsqueeze(1)

    def negative_documents(self, queries: Tensor, in_batch: str) -> Tensor:
        """queries [B] int64 -> [B, D] bool: documents of the query's list and, by `in_batch`, of other lists, without
        those that are never negatives of the query. Isolated lists have their own documents only."""
        own = self.in_own_list(queries)
        others = {"all": ~own, "positives": ~own & self.relevant, "none": torch.zeros_like(own)}[in_batch]
        others &= ~(self.isolated[queries].unsqueeze(1) | self.isolated[self.list_index])
        return (own | others) & ~self.never_negative_documents(queries)

    def negative_queries(self, documents: Tensor) -> Tensor:
        """documents [B] int64 -> [B, Q] bool: the queries of other lists of which the document may be a negative; none
        if its list is isolated."""
        compared = ~(self.isolated[self.list_index[documents]].unsqueeze(1) | self.isolated)
        return self.has_documents & compared & ~self.never_negative_queries(documents)

    def never_negative_documents(self, queries: Tensor) -> Tensor:
        """queries [B] int64 -> [B, D] bool: a list of the batch or the data say that the document's text is relevant
        for the query's text (or that the data exclude it)."""
        return self._documents_of_queries.matrix(self.query_ids[queries])[:, self.document_ids]

    def never_negative_queries(self, documents: Tensor) -> Tensor:
        """documents [B] int64 -> [B, Q] bool: the same, seen from the documents."""
        return self._queries_of_documents.matrix(self.document_ids[documents])[:, self.query_ids]

    @cached_property
    def _documents_of_queries(self) -> Relation:
        sizes = len(self.query_ids), len(self.document_ids)
        return Relation.of_pairs(self.never_queries, self.never_documents, *sizes, self.queries.device)

    @cached_property
    def _queries_of_documents(self) -> Relation:
        sizes = len(self.document_ids), len(self.query_ids)
        return Relation.of_pairs(self.never_documents, self.never_queries, *sizes, self.queries.device)

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
        ones = torch.ones_like(self.pair_queries)
        counts = ones.new_zeros(len(self.queries)).index_add(0, self.pair_queries, ones)
        sums = values.new_zeros(len(self.queries)).index_add(0, self.pair_queries, values)
        return mean_over_lists(sums / counts.clamp(min=1), counts > 0, weights)


def _ids(hashes: Tensor | None, number: int) -> tuple[Tensor, Tensor]:
    """The ids of texts and, by id, their hashes in ascending order; without hashes, every text has its own."""
    if hashes is None:
        hashes = torch.arange(number)
    texts, ids = hashes.unique(return_inverse=True)
    return ids, texts
