"""Embedding distillation: a teacher's embeddings, or its similarities, as targets of an embedding model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.contracts import MatrixLoss
from losses.math.checks import check_one_of
from losses.math.in_batch import InBatch
from losses.math.masking import at_least_float32, rows_where
from losses.math.share import ALONE, Share, mean_over_lists
from losses.math.similarity import DOT, Similarity
from losses.math.tiles import Tile

TARGETS = ("embeddings", "similarities")
DISTANCES = ("cosine", "squared")
ROLES = ("query", "document")
SMALLEST_SQUARE = 1e-16  # of a length, as in torch's `cosine_similarity`


@dataclass(frozen=True)
class EmbeddingDistillation(MatrixLoss):
    """1 - cos(W e, e_t) or |W e - e_t|^2, e_t the teacher's embedding of a text  (Kim et al. 2023, EmbedDistill).

    `target` embeddings: the mean over the texts of a list (its query, its documents, or both: `roles`), then over
    lists. W is the model's projection to the teacher's dimension (`model.teacher_projection`), which is trained and not
    exported; without one the dimensions must be equal. `distance` cosine or squared. The squared distance is a sum over
    the dimensions: sentence-transformers' `MSELoss` is its mean.

    `target` similarities (similarity-preserving distillation, Tung and Mori 2019): 1 - cos(S_q, T_q), the mean over
    queries. S_q and T_q are the similarities of query q to all documents of the global step, by the student and by the
    teacher: no W, and any dimensions. `distance` and `roles` are not read. Rows are computed in blocks.

    Labels are not read.

    Use: a teacher that is an embedding model.
    Cost: d for each text; with target=similarities Q D d for D documents in the step, memory (Q + D) d.
    """

    sharded: ClassVar[bool] = True

    target: str = "embeddings"
    distance: str = "cosine"
    roles: tuple[str, ...] = ROLES

    data_requirements: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_one_of("target", self.target, TARGETS)
        check_one_of("distance", self.distance, DISTANCES)
        if not self.roles or len(set(self.roles)) != len(self.roles):
            raise ValueError(f"roles={list(self.roles)} must be one or more of: {', '.join(ROLES)}")
        for role in self.roles:
            check_one_of("roles", role, ROLES)

    @property
    def reads_projection(self) -> bool:
        """Whether it compares the embeddings themselves, which the model may project."""
        return self.target == "embeddings"

    @property
    def depends_on_other_lists(self) -> bool:  # type: ignore[override]
        return self.target == "similarities"

    @property
    def inputs(self) -> tuple[str, ...]:
        own = () if self.reads_projection else ("similarity",)
        return ("teacher_queries", "teacher_documents", *own)

    @property
    def optional_inputs(self) -> tuple[str, ...]:
        return ("projected_queries", "projected_documents") if self.reads_projection else ()

    def __call__(  # type: ignore[override]
        self,
        queries: Tensor,
        documents: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        weights: Tensor | None = None,
        teacher_queries: Tensor,
        teacher_documents: Tensor,
        projected_queries: Tensor | None = None,
        projected_documents: Tensor | None = None,
        similarity: Similarity = DOT,
        share: Share = ALONE,
    ) -> Tensor:
        """queries [Q, dim], documents [Q, n, dim], mask [Q, n], the teacher's and the projected ones likewise, with
        dimensions of their own -> scalar.

        Raises ValueError if the dimensions differ and there is no projection.
        """
        if self.target == "similarities":
            batch = InBatch.from_lists(queries, documents, labels, mask, similarity, share=share)
            teachers = teacher_queries, rows_where(teacher_documents, mask)
            return _distance_of_rows(batch, *teachers, mask.any(dim=-1), weights)
        own_queries = queries if projected_queries is None else projected_queries
        own_documents = documents if projected_documents is None else projected_documents
        check_dimensions(own_queries.shape[-1], teacher_queries.shape[-1])
        total = own_queries.new_zeros(len(mask), dtype=at_least_float32(own_queries).dtype)
        count = torch.zeros(len(mask), device=mask.device)
        if "query" in self.roles:
            total = total + self._distance(own_queries, teacher_queries)
            count = count + 1
        if "document" in self.roles:
            padding = ~mask.unsqueeze(-1)
            own, targets = (values.masked_fill(padding, 0.0) for values in (own_documents, teacher_documents))
            distances = self._distance(own, targets)
            total = total + distances.masked_fill(~mask, 0.0).sum(dim=-1)
            count = count + mask.sum(dim=-1)
        return mean_over_lists(total / count.clamp(min=1), mask.any(dim=-1), weights, share)

    def _distance(self, embeddings: Tensor, teacher: Tensor) -> Tensor:
        """embeddings, teacher: [..., dim] -> [...]."""
        embeddings, teacher = at_least_float32(embeddings), at_least_float32(teacher)
        if self.distance == "squared":
            return (embeddings - teacher).square().sum(dim=-1)
        return 1 - _cosine(embeddings, teacher)


def check_dimensions(student: int, teacher: int) -> None:
    """Raise ValueError if embeddings of these dimensions cannot be compared."""
    if student != teacher:
        raise ValueError(
            f"loss EmbeddingDistillation compares embeddings of {student} dimensions with the teacher's of {teacher}: "
            f"set model.teacher_projection={teacher}, or loss.target=similarities"
        )


def _distance_of_rows(
    batch: InBatch, queries: Tensor, documents: Tensor, valid: Tensor, weights: Tensor | None
) -> Tensor:
    """The mean over `valid` queries [L] of 1 - cosine of their rows in the matrices of the student and of the teacher,
    whose embeddings of own lists `queries` [L, any] and `documents` [own, any] are compared by their dot product."""
    rows = {"student": batch.queries, "teacher": at_least_float32(queries)}

    def products(tile: Tile) -> tuple[Tensor, ...]:
        own = batch.similarity.matrix(tile.rows["student"], tile.columns["text"])
        target = tile.rows["teacher"] @ tile.columns["guide"].T
        return tuple(values.sum(dim=-1) for values in (own * target, own.square(), target.square()))

    found = batch.over_tiles(products, rows, "doc", guide=at_least_float32(documents), negatives=False)
    product, *squares = (value.sum(dim=0) for value in found)
    lengths = [square.clamp(min=SMALLEST_SQUARE).sqrt() for square in squares]
    values = 1 - product / lengths[0] / lengths[1]
    return mean_over_lists(values, valid, weights, batch.share)


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    """The cosine over the last axis; 0, with a finite gradient, if a vector is 0."""
    lengths = (vectors.square().sum(dim=-1).clamp(min=SMALLEST_SQUARE).sqrt() for vectors in (left, right))
    return (left * right).sum(dim=-1) / next(lengths) / next(lengths)
