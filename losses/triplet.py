"""Triplet losses: the positive should be nearer to the query than the negatives, by a margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.contracts import MatrixLoss
from losses.math.checks import check_finite, check_one_of
from losses.math.in_batch import IN_BATCH, TEXT_INPUTS, InBatch
from losses.math.share import ALONE, Share
from losses.math.similarity import DOT, Similarity
from losses.math.tiles import Tile

DISTANCES = {"euclidean": 2.0, "manhattan": 1.0}


@dataclass(frozen=True)
class Triplet(MatrixLoss):
    """max(0, d(q, p) - d(q, n) + margin)  (Schroff et al. 2015, FaceNet, arXiv 1503.03832, eq. 3).

    `margin` null: softplus(d(q, p) - d(q, n)), the soft margin of Hermans et al. 2017 (arXiv 1703.07737, section 2).
    Distances: cosine, 1 - the similarity (the dot product of vectors of unit length); euclidean; manhattan.

    The negatives n of a query and a positive p are the documents of its list with label 0 and, by `in_batch`, those of
    other lists; with `mask_duplicates`, without those whose text is a positive of the query in any list of the batch or
    one of `never_negatives`: judged relevant for the query by the data, excluded, or the query's own. Padding is no
    negative. `negatives` selects among them: all (their mean); hardest, the nearest one; semi_hard, the
    nearest of those farther away than p. The loss is the mean over a query's positives, then over the queries that have
    one (times `weights`, divided by the number of these queries). A positive without negatives has the loss 0.

    Use: triplets, if a negative that is far enough away should have no gradient.
    Cost: Q^2 n d; in blocks, memory Q n d.
    """

    sharded: ClassVar[bool] = True

    distance: str = "cosine"
    margin: float | None = 0.2
    negatives: str = "all"
    in_batch: str = "none"
    mask_duplicates: bool = True

    def __post_init__(self) -> None:
        check_one_of("distance", self.distance, ("cosine", *DISTANCES))
        if self.margin is not None:
            check_finite("margin", self.margin)
        check_one_of("negatives", self.negatives, ("all", "hardest", "semi_hard"))
        check_one_of("in_batch", self.in_batch, IN_BATCH)

    @property
    def data_requirements(self) -> tuple[str, ...]:
        return ("relevance",) if self.in_batch == "none" else ("positive",)

    @property
    def in_batch_negatives(self) -> bool:
        return self.in_batch != "none"

    @property
    def inputs(self) -> tuple[str, ...]:
        return (
            *(("similarity",) if self.distance == "cosine" else ()),
            *(("query_hashes", "document_hashes") if self.mask_duplicates else ()),
        )

    @property
    def optional_inputs(self) -> tuple[str, ...]:
        return ("isolated", *(("never_negatives",) if self.mask_duplicates else ()))

    @property
    def masks_misordered(self) -> bool:
        """True if only negatives farther away than the positive count."""
        return self.negatives == "semi_hard"

    def __call__(
        self,
        queries: Tensor,
        documents: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        weights: Tensor | None = None,
        similarity: Similarity = DOT,
        share: Share = ALONE,
        **inputs: Tensor,
    ) -> Tensor:
        """queries [Q, dim], documents [Q, n, dim], labels and mask [Q, n], weights [Q] -> scalar.

        With `mask_duplicates` further inputs are query_hashes [Q] and document_hashes [Q, n] int64, equal for equal
        texts, and never_negatives [any, 2] int64, a list and the hash of a text that is no negative of it. isolated [Q]
        bool: a list that is compared with its own documents only.
        """
        texts = {name: inputs.get(name) for name in TEXT_INPUTS} if self.mask_duplicates else {}
        batch = InBatch.from_lists(
            queries, documents, labels, mask, similarity, isolated=inputs.get("isolated"), share=share, **texts
        )

        rows = {"query": batch.queries[batch.pair_queries]}
        rows["to_positive"] = self.to_own(rows["query"], batch.documents[batch.pair_documents], similarity)

        def values(tile: Tile) -> tuple[Tensor, Tensor]:
            query = batch.own_queries[batch.pair_queries[tile.row]]
            distances = self.distances(tile.rows["query"], tile.columns["text"], similarity)
            to_positive = tile.rows["to_positive"].unsqueeze(1)
            negative = batch.negative_documents(query, tile.column, self.in_batch)
            if self.negatives == "semi_hard":
                negative &= distances > to_positive
            excess = to_positive - distances
            terms = F.softplus(excess) if self.margin is None else F.relu(excess + self.margin)
            terms = terms.where(negative, torch.zeros_like(terms))
            # The nearest has the largest term; 0 without a negative.
            found = terms.sum(dim=1) if self.negatives == "all" else F.pad(terms, (0, 1)).amax(dim=1)
            return found, negative.sum(dim=1).to(terms.dtype)

        found, number = batch.over_tiles(values, rows, "doc", in_batch=self.in_batch)
        if self.negatives == "all":
            return batch.mean_over_queries(found.sum(dim=0) / number.sum(dim=0).clamp(min=1), weights)
        return batch.mean_over_queries(found.amax(dim=0), weights)

    def distances(self, queries: Tensor, documents: Tensor, similarity: Similarity) -> Tensor:
        """queries [R, dim], documents [C, dim] -> [R, C], the distances of all to all."""
        if self.distance == "cosine":
            return 1 - similarity.matrix(queries, documents)
        # Computed from differences: computed from squares, small distances would be rounding errors.
        mode, p = "donot_use_mm_for_euclid_dist", DISTANCES[self.distance]
        return torch.cdist(queries, documents, p=p, compute_mode=mode)

    def to_own(self, queries: Tensor, documents: Tensor, similarity: Similarity) -> Tensor:
        """queries and documents [P, dim] -> [P], the distance of each query to its own document."""
        if self.distance == "cosine":
            return 1 - similarity.aligned(queries, documents)
        mode, p = "donot_use_mm_for_euclid_dist", DISTANCES[self.distance]
        return torch.cdist(queries.unsqueeze(1), documents.unsqueeze(1), p=p, compute_mode=mode).flatten()
