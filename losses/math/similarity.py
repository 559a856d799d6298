"""How queries and documents are compared. Losses, evaluators and search ask a `Similarity`; nobody else compares.

A model says its similarity by name ("cosine", "dot"), since models know nothing of losses; `similarity_named` gives the
object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from losses.math.masking import at_least_float32


@dataclass(frozen=True)
class Similarity(ABC):
    """Compares representations of queries with representations of documents.

    Representations are what a model gives for texts, with leading axes that count the texts: dense embeddings are a
    tensor [..., dim]. A similarity of several vectors per text, or of sparse vectors, brings a class of its own for
    them. That class offers what is used of a tensor: `len`, `split`, `device`, and indexing along the leading axes. So
    no caller needs to know how many vectors a text has.

    `pairs`, `aligned` and `matrix` read representations that are ready to be compared: made so by `comparable`, or by
    the model itself.
    """

    name: ClassVar[str]

    @abstractmethod
    def comparable(self, representations: Any, dim: int | None = None) -> Any:
        """Representations made ready to be compared, by their first `dim` dimensions alone (None: all)."""

    @abstractmethod
    def pairs(self, queries: Any, documents: Any) -> Tensor:
        """Each query with its own documents: queries [Q, ...] and documents [Q, n, ...] -> [Q, n]; or one query [...]
        with its documents [n, ...] -> [n]."""

    @abstractmethod
    def aligned(self, queries: Any, documents: Any) -> Tensor:
        """Each query with the document at its place: queries [B, ...] and documents [B, ...] -> [B]."""

    @abstractmethod
    def matrix(self, queries: Any, documents: Any) -> Tensor:
        """Each query with each document: queries [Q, ...] and documents [D, ...] -> [Q, D]."""


@dataclass(frozen=True)
class DotProduct(Similarity):
    """sum_i q_i d_i of dense embeddings."""

    name: ClassVar[str] = "dot"

    def comparable(self, representations: Tensor, dim: int | None = None) -> Tensor:
        return representations[..., :dim]

    def pairs(self, queries: Tensor, documents: Tensor) -> Tensor:
        if queries.ndim == 1:  # as a matrix with one column, the sum would be rounded otherwise
            return documents @ queries
        return (documents @ queries.unsqueeze(-1)).squeeze(-1)

    def aligned(self, queries: Tensor, documents: Tensor) -> Tensor:
        return (queries * documents).sum(dim=-1)

    def matrix(self, queries: Tensor, documents: Tensor) -> Tensor:
        return queries @ documents.T


@dataclass(frozen=True)
class Cosine(DotProduct):
    """sum_i q_i d_i / (|q| |d|): the dot product of embeddings that `comparable` puts to unit length.

    A model that compares by cosine gives embeddings of unit length already in training. There they are compared as they
    are, by the dot product: no loss normalises them again.
    """

    name: ClassVar[str] = "cosine"

    def comparable(self, representations: Tensor, dim: int | None = None) -> Tensor:
        return normalize(at_least_float32(super().comparable(representations, dim)), dim=-1)


DOT, COSINE = DotProduct(), Cosine()
SIMILARITIES: dict[str, Similarity] = {similarity.name: similarity for similarity in (DOT, COSINE)}


def similarity_named(name: str) -> Similarity:
    """The similarity of that name. Raises ValueError, with the valid names, if there is none."""
    if name not in SIMILARITIES:
        raise ValueError(f"similarity={name!r} is not known; choose one of: {', '.join(SIMILARITIES)}")
    return SIMILARITIES[name]
