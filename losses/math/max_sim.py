"""The sum of maximal similarities of token vectors, MaxSim, computed tile by tile.

S(q, d) = sum_i max_j q_i . d_j  (Khattab and Zaharia 2020, ColBERT, arXiv 2004.12832). The products of all tokens of
the queries with all tokens of the documents would be far larger than the vectors. So documents of similar length are
compared in groups; of their products the forward reads the maximum per query token, and the backward computes them
again. Memory is that of the vectors, of their gradients, and one tile. Of equal maxima the first gets the gradient.

XTR (Lee et al. 2023, arXiv 2304.01982, equation 5) counts a maximum only if a search of tokens would find it: if it is
at least `least[i]`. S(q, d) is then the mean of those that count, 0 if none does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from tensors.ragged import Ragged, moved

ELEMENTS_PER_TILE = {"cpu": 2**20, "cuda": 2**24}  # products that are held at once: the cache of a CPU


def max_sim_matrix(queries: Ragged, documents: Ragged, least: Tensor | None = None) -> Tensor:
    """Compare the token vectors of each query [Q] with those of each document [D]: [Q, D]. Without tokens it is 0.
    `least` [vectors of the queries], of XTR, has no gradient."""
    return _scores(queries, documents, None, least).T


def max_sim_pairs(queries: Ragged, documents: Ragged, owner: Tensor, least: Tensor | None = None) -> Tensor:
    """Compare the token vectors of document i [D] with those of query owner[i], on the host: [D]."""
    return _scores(queries, documents, owner, least)


def _scores(queries: Ragged, documents: Ragged, owner: Tensor | None, least: Tensor | None) -> Tensor:
    tiles = _Tiles(queries.detach(), documents.detach(), owner, None if least is None else least.detach())
    found: Tensor = _MaxSim.apply(tiles, queries.values, documents.values)
    return found


class _MaxSim(torch.autograd.Function):
    """The scores [D, Q] of all pairs, or [D] of documents with a query each."""

    @staticmethod
    def forward(ctx: Any, tiles: _Tiles, queries: Tensor, documents: Tensor) -> Tensor:
        ctx.tiles = tiles
        ctx.save_for_backward(queries, documents)
        scores = queries.new_zeros(tiles.shape)
        for tile in tiles:
            scores[tile.columns][tile.rows] = tile.scores(queries, documents)
        return scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        queries, documents = ctx.saved_tensors
        of_queries, of_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for tile in ctx.tiles:
            tile.add_gradients(gradient[tile.columns][tile.rows], (queries, documents), (of_queries, of_documents))
        return None, of_queries, of_documents


@dataclass(frozen=True)
class _Padded:
    """The places [n, longest] of the vectors of n rows. Beyond a row's end its first vector stands once more, in an
    empty row any vector."""

    places: Tensor  # [n, longest] int64
    is_token: Tensor  # [n, longest] bool: not beyond the end
    sizes: Tensor  # [n, 1] int64

    @classmethod
    def of(cls, ragged: Ragged, rows: Tensor) -> _Padded:
        """rows [n] are on the host."""
        sizes = ragged.sizes[rows].unsqueeze(1)
        steps = torch.arange(int(sizes.max()))
        starts = ragged.offsets()[rows].clamp(max=len(ragged.values) - 1)  # an empty last row begins behind the last
        places = starts.unsqueeze(1) + steps.where(steps < sizes, 0)
        return cls(*(moved(values, ragged.device) for values in (places, steps < sizes, sizes)))


@dataclass(frozen=True)
class _Tile:
    """B documents of up to L tokens, and the q queries of up to l tokens that they are compared with: a block for all
    of them, or one for each (`owned`)."""

    rows: Tensor  # [B] int64: which documents
    columns: tuple[slice, ...]  # which of the scores [D, Q] are of the block of queries; owned: all of [D]
    documents: _Padded
    queries: _Padded
    owned: bool
    least: Tensor | None  # of the query tokens, in the shape of their places

    def scores(self, queries: Tensor, documents: Tensor) -> Tensor:
        """[B, q]; owned: [B]. queries, documents: all vectors."""
        best = (documents[self.documents.places] @ self._query_vectors(queries).mT).amax(dim=1)
        best = best.view(best.shape if self.owned else (-1, *self.queries.places.shape))
        return (best * self._weights(best)).sum(dim=-1)

    def _weights(self, best: Tensor) -> Tensor:
        """The weight of each maximum in its score, of maxima [B, q, l] or owned [B, l]."""
        is_token = self.queries.is_token
        if self.least is None:
            return is_token.to(best.dtype)
        counted = ((best >= self.least) & is_token).to(best.dtype)
        return counted / counted.sum(dim=-1, keepdim=True).clamp(min=1)

    def add_gradients(self, of_scores: Tensor, values: tuple[Tensor, Tensor], sums: tuple[Tensor, Tensor]) -> None:
        """Add the gradients of the vectors of queries and documents to `sums`, given that of the scores. The products
        are computed again; each query token has its gradient from one document token, and that from it."""
        products = values[1][self.documents.places] @ self._query_vectors(values[0]).mT
        first = _first_max(products, self.documents.sizes)
        best = products.gather(1, first.unsqueeze(1)).squeeze(1)
        of_maxima = self._weights(best.view(best.shape if self.owned else (-1, *self.queries.places.shape)))
        weights = (of_scores.unsqueeze(-1) * of_maxima).view(first.shape)
        of_documents = self.documents.places.gather(1, first).flatten()
        of_queries = self.queries.places.view(-1, first.shape[1]).expand_as(first).flatten()
        _add_products(sums[0], of_queries, values[1], of_documents, weights.flatten())
        _add_products(sums[1], of_documents, values[0], of_queries, weights.flatten())

    def _query_vectors(self, queries: Tensor) -> Tensor:
        """[q * l, dim]; owned: [B, l, dim]."""
        return queries[self.queries.places if self.owned else self.queries.places.flatten()]


def _first_max(products: Tensor, sizes: Tensor) -> Tensor:
    """The first of the largest of products [B, L, n] over L: [B, n] int64. sizes [B, 1]: the rest are copies of the
    first one, which may be rounded otherwise."""
    length = products.shape[1]  # `max` gives the place too, but takes as long as the products on a CPU
    falling = torch.arange(length, 0, -1, device=products.device, dtype=torch.int16 if length < 2**15 else torch.int32)
    highest = products >= products.amax(dim=1, keepdim=True)
    first = length - (highest * falling.view(1, -1, 1)).amax(dim=1).long()
    return first.where(first < sizes, 0)


def _add_products(sums: Tensor, at: Tensor, values: Tensor, of: Tensor, weights: Tensor) -> None:
    """Add weights[i] * values[of[i]] to sums[at[i]], without a product per i, in an order that is always the same."""
    order = at.argsort(stable=True)
    rows, counts = at[order].unique_consecutive(return_counts=True)
    bags = embedding_bag(of[order], values, counts.cumsum(0) - counts, mode="sum", per_sample_weights=weights[order])
    sums[rows] += bags


@dataclass(frozen=True)
class _Tiles:
    """The tiles of one call, made one after the other. `owner` [D] is the query of each document, on the host; None:
    all are compared with all."""

    queries: Ragged
    documents: Ragged
    owner: Tensor | None
    least: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.documents),) if self.owner is not None else (len(self.documents), len(self.queries))

    def __iter__(self) -> Iterator[_Tile]:
        documents, sizes = self.documents, self.documents.sizes
        kept = sizes > 0 if self.owner is None else (sizes > 0) & (self.queries.sizes[self.owner] > 0)
        order = sizes.argsort(descending=True, stable=True)
        order = order[kept[order]]
        longest = int(self.queries.sizes.max()) if len(self.queries) else 0
        if len(order) == 0 or longest == 0:
            return
        limit = ELEMENTS_PER_TILE["cuda" if documents.device.type == "cuda" else "cpu"]
        if self.owner is not None:
            width = max(longest, documents.values.shape[1])
            for rows in _groups(order, sizes, limit // width):
                queries = _Padded.of(self.queries, self.owner[rows])
                yield self._tile(rows, (slice(None),), queries)
            return
        block = max(1, limit // int(sizes[order[0]]) // longest)  # queries at once
        for start in range(0, len(self.queries), block):
            chosen = torch.arange(start, min(start + block, len(self.queries)))
            queries = _Padded.of(self.queries, chosen)
            if queries.places.shape[1] == 0:
                continue
            columns = (slice(None), slice(start, start + block))
            for rows in _groups(order, sizes, limit // queries.places.numel()):
                yield self._tile(rows, columns, queries)

    def _tile(self, rows: Tensor, columns: tuple[slice, ...], queries: _Padded) -> _Tile:
        least = None if self.least is None else self.least[queries.places]
        on_device, documents = moved(rows, self.documents.device), _Padded.of(self.documents, rows)
        return _Tile(on_device, columns, documents, queries, self.owner is not None, least)


def _groups(order: Tensor, sizes: Tensor, limit: int) -> Iterator[Tensor]:
    """Rows in groups, the longest first, with at most `limit` tokens as padded; one row at least."""
    start = 0
    while start < len(order):
        number = max(1, limit // int(sizes[order[start]]))
        yield order[start : start + number]
        start += number
