"""Similarities of queries and documents. Losses, evaluators and search compare only through a `Similarity`.

A model gives the name of its similarity ("cosine", "dot"), since models do not import losses. `similarity_named`
returns the object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from losses.math.masking import at_least_float32
from losses.math.max_sim import max_sim_matrix, max_sim_pairs
from tensors.ragged import Ragged, moved


@dataclass(frozen=True)
class Similarity(ABC):
    """Compares representations of queries with representations of documents.

    Representations are a model's outputs for texts. Their leading axes index the texts: dense embeddings are a tensor
    [..., dim]. A similarity of several vectors per text, or of sparse vectors, has its own class of representations.
    That class supports the operations that callers use on a tensor: `len`, `split`, `device`, and indexing along the
    leading axes (`tensors.ragged.Ragged`). So no caller needs to know how many vectors a text has.

    `pairs`, `aligned` and `matrix` take representations that are ready to be compared: `comparable` or the model itself
    makes them so.
    """

    name: ClassVar[str]
    is_ragged: ClassVar[bool] = False  # whether representations are `Ragged`
    is_symmetric: ClassVar[bool] = True  # whether query and document may change places, so that texts of a role compare

    @abstractmethod
    def comparable(self, representations: Any, dim: int | None = None) -> Any:
        """Prepare representations to be compared, by their first `dim` dimensions only (None: all)."""

    def of_cut(self, *, normalize: bool) -> Similarity:
        """The similarity of representations that are cut to their first dimensions. `normalize`: they get unit length
        again."""
        return COSINE if normalize else DOT

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

    @abstractmethod
    def likeness(self, documents: Any, others: Any) -> Tensor:
        """How like documents [n, ...] are to other documents [m, ...]: [n, m], 1 for equal ones, at most 1 but for
        rounding, and the same in both directions."""


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

    def likeness(self, documents: Tensor, others: Tensor) -> Tensor:
        """The cosine."""
        return normalize(documents, dim=-1) @ normalize(others, dim=-1).T


@dataclass(frozen=True)
class Cosine(DotProduct):
    """The cosine sum_i q_i d_i / (|q| |d|): the dot product of embeddings that `comparable` scales to unit length.

    In training, a model that compares by cosine already gives embeddings of unit length. No loss normalises them again:
    it takes their dot product.
    """

    name: ClassVar[str] = "cosine"

    def comparable(self, representations: Tensor, dim: int | None = None) -> Tensor:
        return normalize(at_least_float32(super().comparable(representations, dim)), dim=-1)


@dataclass(frozen=True)
class MaxSim(Similarity):
    """sum_i max_j q_i . d_j of the token vectors of a query and a document (`losses.math.max_sim`), which `comparable`
    scales to unit length if `unit_length`. Representations are ragged rows of vectors [elements, dim]."""

    name: ClassVar[str] = "maxsim"
    is_ragged: ClassVar[bool] = True
    is_symmetric: ClassVar[bool] = False  # a sum over the query's vectors

    unit_length: bool = True

    def comparable(self, representations: Ragged, dim: int | None = None) -> Ragged:
        vectors = at_least_float32(representations.values)[:, :dim]
        return representations.with_values(normalize(vectors, dim=-1) if self.unit_length else vectors)

    def of_cut(self, *, normalize: bool) -> Similarity:
        return replace(self, unit_length=normalize)

    def pairs(self, queries: Ragged, documents: Ragged) -> Tensor:
        if queries.sizes.ndim == 0:
            return self.matrix(queries.unsqueeze(0), documents)[0]
        owner = torch.arange(len(queries)).repeat_interleave(documents.sizes.shape[1])
        return self._scores(queries, documents, owner)

    def aligned(self, queries: Ragged, documents: Ragged) -> Tensor:
        return self._scores(queries.flatten(), documents, torch.arange(queries.sizes.numel()))

    def matrix(self, queries: Ragged, documents: Ragged) -> Tensor:
        return self._scaled(max_sim_matrix(_wide(queries), _wide(documents)), queries.sizes.unsqueeze(1))

    def likeness(self, documents: Ragged, others: Ragged) -> Tensor:
        """The mean over both directions: how like each vector of the one is to the most similar one of the other, in
        the mean over the vectors, by their cosines."""
        own, compared = (MaxSim().comparable(each) for each in (documents, others))
        forth, back = MeanMaxSim().matrix(own, compared), MeanMaxSim().matrix(compared, own)
        return (forth + back.T) / 2

    def _scores(self, queries: Ragged, documents: Ragged, owner: Tensor) -> Tensor:
        found = max_sim_pairs(_wide(queries), _wide(documents).flatten(), owner).view(documents.sizes.shape)
        return self._scaled(found, queries.sizes[owner].view(documents.sizes.shape))

    def _scaled(self, scores: Tensor, query_tokens: Tensor) -> Tensor:
        return scores


@dataclass(frozen=True)
class MeanMaxSim(MaxSim):
    """MaxSim divided by the number of a query's tokens, so that the scores of short and long queries compare."""

    name: ClassVar[str] = "meanmaxsim"

    def _scaled(self, scores: Tensor, query_tokens: Tensor) -> Tensor:
        return scores / moved(query_tokens.clamp(min=1), scores.device)


@dataclass(frozen=True)
class RetrievedMaxSim(MaxSim):
    """MaxSim of what a search of tokens would find (`losses.xtr`). A query's vectors [elements, dim + 1] end with the
    least similarity that their search finds. It is no similarity of a model: it depends on the documents of a step."""

    name: ClassVar[str] = "xtr"

    def matrix(self, queries: Ragged, documents: Ragged) -> Tensor:
        return max_sim_matrix(*self._parts(queries, documents), _wide(queries).values[:, -1])

    def _scores(self, queries: Ragged, documents: Ragged, owner: Tensor) -> Tensor:
        vectors, others = self._parts(queries, documents.flatten())
        found = max_sim_pairs(vectors, others, owner, _wide(queries).values[:, -1])
        return found.view(documents.sizes.shape)

    def _parts(self, queries: Ragged, documents: Ragged) -> tuple[Ragged, Ragged]:
        wide = _wide(queries)
        return wide.with_values(wide.values[:, :-1]), _wide(documents)


def _wide(rows: Ragged) -> Ragged:
    return rows.with_values(at_least_float32(rows.values))


DOT, COSINE = DotProduct(), Cosine()
SIMILARITIES: dict[str, Similarity] = {each.name: each for each in (DOT, COSINE, MaxSim(), MeanMaxSim())}


def similarity_named(name: str) -> Similarity:
    """Return the similarity of that name. Raises ValueError, with the valid names, if there is none."""
    if name not in SIMILARITIES:
        raise ValueError(f"similarity={name!r} is not known; choose one of: {', '.join(SIMILARITIES)}")
    return SIMILARITIES[name]
