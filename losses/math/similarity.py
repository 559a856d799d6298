"""Similarities of queries and documents. Losses, evaluators and search compare only through a `Similarity`.

A model gives the name of its similarity ("cosine", "dot"), since models do not import losses. `similarity_named`
returns the object.
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

    Representations are a model's outputs for texts. Their leading axes index the texts: dense embeddings are a tensor
    [..., dim]. A similarity of several vectors per text, or of sparse vectors, has its own class of representations.
    That class supports the operations that callers use on a tensor: `len`, `split`, `device`, and indexing along the
    leading axes. So no caller needs to know how many vectors a text has.

    `pairs`, `aligned` and `matrix` take representations that are ready to be compared: `comparable` or the model itself
    makes them so.
    """

    name: ClassVar[str]

    @abstractmethod
    def comparable(self, representations: Any, dim: int | None = None) -> Any:
        """Prepare representations to be compared, by their first `dim` dimensions only (None: all)."""

    @abstractmethod
    def pairs(self, queries: Any, documents: Any) -> Tensor:
        """Compare each query with its own documents: queries [Q, ...] and documents [Q, n, ...] -> [Q, n]; or one query
        [...] with its documents [n, ...] -> [n]."""

    @abstractmethod
    def aligned(self, queries: Any, documents: Any) -> Tensor:
        """Compare query i with document i: queries [B, ...] and documents [B, ...] -> [B]."""

    @abstractmethod
    def matrix(self, queries: Any, documents: Any) -> Tensor:
        """Compare each query with each document: queries [Q, ...] and documents [D, ...] -> [Q, D]."""


@dataclass(frozen=True)
class DotProduct(Similarity):
    """The dot product sum_i q_i d_i of dense embeddings."""

    name: ClassVar[str] = "dot"

    def comparable(self, representations: Tensor, dim: int | None = None) -> Tensor:
        return representations[..., :dim]

    def pairs(self, queries: Tensor, documents: Tensor) -> Tensor:
        if queries.ndim == 1:  # a matrix with one column would round the sum differently
            return documents @ queries
        return (documents @ queries.unsqueeze(-1)).squeeze(-1)

    def aligned(self, queries: Tensor, documents: Tensor) -> Tensor:
        return (queries * documents).sum(dim=-1)

    def matrix(self, queries: Tensor, documents: Tensor) -> Tensor:
        return queries @ documents.T


@dataclass(frozen=True)
class Cosine(DotProduct):
    """The cosine sum_i q_i d_i / (|q| |d|): the dot product of embeddings that `comparable` scales to unit length.

    In training, a model that compares by cosine already gives embeddings of unit length. No loss normalises them again:
    it takes their dot product.
    """

    name: ClassVar[str] = "cosine"

    def comparable(self, representations: Tensor, dim: int | None = None) -> Tensor:
        return normalize(at_least_float32(super().comparable(representations, dim)), dim=-1)


DOT, COSINE = DotProduct(), Cosine()
SIMILARITIES: dict[str, Similarity] = {similarity.name: similarity for similarity in (DOT, COSINE)}


def similarity_named(name: str) -> Similarity:
    """Return the similarity of that name. Raises ValueError, with the valid names, if there is none."""
    if name not in SIMILARITIES:
        raise ValueError(f"similarity={name!r} is not known; choose one of: {', '.join(SIMILARITIES)}")
    return SIMILARITIES[name]
