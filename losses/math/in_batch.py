"""In-batch negatives: pairs (query, positive document) compared with all queries and documents of a batch.

InfoNCE, SigLIP and the triplet loss use it. A rank has the rows of its own lists, and compares them with the texts of
all ranks tile by tile (losses/math/tiles.py). So a step of thousands of queries never holds a [queries, documents]
matrix, nor the embeddings of all ranks: memory grows with the number of a rank's own texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from losses.math.masking import at_least_float32, on_host, rows_where
from losses.math.share import ALONE, Share, host_values, mean_over_lists
from losses.math.similarity import Similarity
from losses.math.tiles import Columns, TileFunction, over_tiles
from tensors.ragged import Rows

IN_BATCH = ("all", "positives", "none")  # which documents of the other lists are negatives
TEXT_INPUTS = ("query_hashes", "document_hashes", "never_negatives")  # fields of LossInputs that tell texts apart


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

    def matrix(self, rows: Tensor, columns: Tensor) -> Tensor:
        """rows [R], columns [C] int64 -> [R, C] bool: the column belongs to the row."""
        place = self.starts[rows].unsqueeze(1) + torch.arange(self.longest, device=rows.device)
        place = place.where(place < self.starts[rows + 1].unsqueeze(1), len(self.columns) - 1)
        # Where each column is among those asked for. Of a column that is asked for twice one place serves both; those
        # that are not asked for share a place after the others.
        at = columns.new_full((self.num_columns + 1,), len(columns))
        at[columns] = torch.arange(len(columns), device=columns.device)
        found = rows.new_zeros(len(rows), len(columns) + 1, dtype=torch.bool)
        return found.scatter_(1, at[self.columns[place]], True)[:, at[columns]]


@dataclass(frozen=True)
class InBatch:
    """Q queries, the D documents of all lists, and the pairs of a query and a relevant document of its list.

    On several ranks a rank has the embeddings of its own L queries and `own` documents, and its own P pairs; what it
    knows of the others are numbers. Two texts are equal if their hashes are; without hashes all texts count as
    different. Padding is left out. `never_queries` and `never_documents` are the pairs of ids that are no negatives:
    those of a query and a relevant document, and those that the data judge relevant or exclude. An isolated list has no
    negatives of other lists, and gives them none.
    """

    queries: Any  # [L, dim] of own lists, at least float32, or ragged rows
    documents: Any  # [own, dim] of own lists, or ragged rows
    own_queries: Tensor  # [L] int64: which of the Q queries they are; a list of padding counts as the last one
    own_documents: Tensor  # [own] int64: which of the D documents they are
    pair_queries: Tensor  # [P] int64: which of own queries
    pair_documents: Tensor  # [P] int64: which of own documents
    has_documents: Tensor  # [Q] bool: the list has a document. A list of padding only has no query either
    list_index: Tensor  # [D] int64: the list (query) that a document belongs to
    relevant: Tensor  # [D] bool: the label is above 0
    query_ids: Tensor  # [Q] int64, 0 to their number - 1: equal for equal texts
    document_ids: Tensor  # [D] int64
    never_queries: Tensor  # [pairs] int64, query ids; on the host
    never_documents: Tensor  # [pairs] int64, document ids; on the host
    isolated: Tensor  # [Q] bool
    any_isolated: bool
    similarity: Similarity
    share: Share
    lists_of: Mapping[str, Tensor]  # which list each query and document is of, by role, on the host

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
        share: Share = ALONE,
    ) -> InBatch:
        """queries [L, dim], documents [L, n, dim], labels and mask [L, n], hashes [L] and [L, n] or None.

        never_negatives: [any, 2] int64, pairs of a list of the step and the hash of a text, or None; it needs the
        hashes. isolated: [L] bool, or None if no list is.
        """
        # Which texts are compared is worked out on the host: it would wait for a GPU to learn each number of texts.
        device, on_cpu = queries.device, host_values(mask, share)
        relevant = host_values(labels, share)[on_cpu] > 0
        list_index = on_cpu.nonzero()[:, 0]
        query_ids, _ = _ids(None if query_hashes is None else host_values(query_hashes, share), len(on_cpu))
        hashes = None if document_hashes is None else host_values(document_hashes, share)[on_cpu]
        document_ids, texts = _ids(hashes, len(relevant))
        positives = relevant.nonzero()[:, 0]
        never_queries, never_documents = query_ids[list_index[positives]], document_ids[positives]
        if never_negatives is not None:
            excluded = on_host(never_negatives)
            of_list, hashes = excluded[torch.isin(excluded[:, 1], texts)].unbind(1)
            never_queries = torch.cat([never_queries, query_ids[of_list]])
            never_documents = torch.cat([never_documents, torch.searchsorted(texts, hashes.contiguous())])
        alone = torch.zeros(len(on_cpu), dtype=torch.bool) if isolated is None else host_values(isolated, share)
        own_documents = (list_index % share.ranks == share.rank).nonzero()[:, 0]
        pair_documents = relevant[own_documents].nonzero()[:, 0]
        known = {
            "own_queries": share.own(len(on_cpu)).clamp(max=len(on_cpu) - 1),
            "own_documents": own_documents,
            "pair_queries": list_index[own_documents][pair_documents] // share.ranks,
            "pair_documents": pair_documents,
            "has_documents": on_cpu.any(dim=1),
            "list_index": list_index,
            "relevant": relevant,
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
            share=share,
            lists_of={"query": torch.arange(len(on_cpu)), "doc": list_index},
            **{name: _on_device(value, device) for name, value in known.items()},
        )

    def over_tiles(
        self,
        function: TileFunction,
        rows: Mapping[str, Rows],
        role: str,
        scalars: Mapping[str, Tensor] | None = None,
        *,
        in_batch: str = "all",
        negatives: bool = True,
        guide: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Compare `rows` with the queries or documents (`role` "query" or "doc") of the lists: `tiles.over_tiles`.

        They are those of the ranks whose texts are negatives of each other, of this rank alone if `in_batch` is none,
        and of all ranks if they are no `negatives`. A tile has their embeddings as `columns["text"]`, and as
        `columns["guide"]` those of another model, given for own texts.
        """
        ranks = self.share.compared if negatives else range(self.share.ranks)
        ranks = [self.share.rank] if in_batch == "none" else ranks
        holder = self.lists_of[role] % self.share.ranks
        places = [(holder == number).nonzero()[:, 0] for number in ranks]
        own = {"text": self.documents}
        if role == "query":  # without the lists of padding that make up the number
            own = {"text": self.queries[: len(places[list(ranks).index(self.share.rank)])]}
        if guide is not None:
            own["guide"] = guide[: len(own["text"])]
        return over_tiles(function, rows, Columns(own, places, self.share), scalars or {})

    def document_blocks(self) -> Iterator[Any]:
        """The documents of the lists of all ranks, without gradients, block by block. All ranks call it together."""
        holder = self.lists_of["doc"] % self.share.ranks
        places = [(holder == number).nonzero()[:, 0] for number in range(self.share.ranks)]
        columns = Columns({"text": self.documents.detach()}, places, self.share)
        return (columns.start(part, sizes, "text")() for part, sizes, _ in columns.blocks())

    def in_own_list(self, queries: Tensor, documents: Tensor) -> Tensor:
        """queries [R], documents [C] int64 of the step -> [R, C] bool: the document is in the query's list."""
        return self.list_index[documents] == queries.unsqueeze(1)

    def negative_documents(self, queries: Tensor, documents: Tensor, in_batch: str) -> Tensor:
        """queries [R], documents [C] int64 of the step -> [R, C] bool: documents of the query's list and, by
        `in_batch`, of other lists, without those that are never negatives of the query. Isolated lists have their own
        documents only."""
        own = self.in_own_list(queries, documents)
        others = {"all": ~own, "positives": ~own & self.relevant[documents], "none": torch.zeros_like(own)}[in_batch]
        if self.any_isolated:
            others &= ~(self.isolated[queries].unsqueeze(1) | self.isolated[self.list_index[documents]])
        return (own | others) & ~self.never_negative_documents(queries, documents)

    def negative_queries(self, documents: Tensor, queries: Tensor) -> Tensor:
        """documents [R], queries [C] int64 of the step -> [R, C] bool: the queries of other lists of which the document
        may be a negative; none if its list is isolated."""
        compared = ~(self.isolated[self.list_index[documents]].unsqueeze(1) | self.isolated[queries])
        return self.has_documents[queries] & compared & ~self.never_negative_queries(documents, queries)

    def never_negative_documents(self, queries: Tensor, documents: Tensor) -> Tensor:
        """queries [R], documents [C] int64 -> [R, C] bool: a list of the batch or the data say that the document's text
        is relevant for the query's text (or that the data exclude it)."""
        return self._documents_of_queries.matrix(self.query_ids[queries], self.document_ids[documents])

    def never_negative_queries(self, documents: Tensor, queries: Tensor) -> Tensor:
        """documents [R], queries [C] int64 -> [R, C] bool: the same, seen from the documents."""
        return self._queries_of_documents.matrix(self.document_ids[documents], self.query_ids[queries])

    @cached_property
    def _documents_of_queries(self) -> Relation:
        sizes = len(self.query_ids), len(self.document_ids)
        return Relation.of_pairs(self.never_queries, self.never_documents, *sizes, self.queries.device)

    @cached_property
    def _queries_of_documents(self) -> Relation:
        sizes = len(self.document_ids), len(self.query_ids)
        return Relation.of_pairs(self.never_documents, self.never_queries, *sizes, self.queries.device)

    def mean_over_queries(self, values: Tensor, weights: Tensor | None) -> Tensor:
        """values [P] -> scalar: the mean over each query's pairs, then the (weighted) mean over queries with a pair."""
        ones = torch.ones_like(self.pair_queries)
        counts = ones.new_zeros(len(self.queries)).index_add(0, self.pair_queries, ones)
        sums = values.new_zeros(len(self.queries)).index_add(0, self.pair_queries, values)
        return mean_over_lists(sums / counts.clamp(min=1), counts > 0, weights, self.share)


def _on_device(values: Tensor, device: torch.device) -> Tensor:
    """What the host knows, on the device; ragged rows are chosen by what is on the host (`masking.on_host`)."""
    moved: Any = values.to(device, non_blocking=True)
    if moved is not values:
        moved.on_host = values
    return moved


def _ids(hashes: Tensor | None, number: int) -> tuple[Tensor, Tensor]:
    """The ids of texts and, by id, their hashes in ascending order; without hashes, every text has its own."""
    if hashes is None:
        hashes = torch.arange(number)
    texts, ids = hashes.unique(return_inverse=True)
    return ids, texts
