"""Retrieve from the whole corpus, by BM25 or by a bi-encoder's cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.bm25 import bm25_candidates
from evaluation.metrics import Run
from evaluation.scoring import Forward, score_rows, tokenize_sharded

DEPTH = 1000  # documents retrieved per query: TREC's convention, which MAP depends on
TEXTS_PER_BLOCK = 16384  # tokenised and encoded at once
QUERIES_PER_BLOCK, DOCUMENTS_PER_BLOCK = 1024, 65536  # a block of similarities is 256 MiB


class Retriever(Protocol):
    def retrieve(self, documents: Mapping[str, str], queries: Mapping[str, str], depth: int) -> Run:
        """The `depth` best documents of every query and their scores."""


@dataclass(frozen=True)
class BM25:
    """Lucene's BM25 by `bm25s`: English stop words, Snowball stemmer."""

    k1: float = 0.9
    b: float = 0.4

    def retrieve(self, documents: Mapping[str, str], queries: Mapping[str, str], depth: int) -> Run:
        found = bm25_candidates(documents, queries, depth=depth, k1=self.k1, b=self.b)
        return {query: dict(ranked) for query, ranked in found.items()}


@dataclass(frozen=True)
class DenseRetriever:
    """Exact search by the cosine of `forward(features)["embedding"]`; `tokenizer(texts, role)` gives unpadded rows."""

    forward: Forward
    tokenizer: Any
    device: torch.device
    token_budget: int = 16384

    def retrieve(self, documents: Mapping[str, str], queries: Mapping[str, str], depth: int) -> Run:
        query_embeddings = self.encode(list(queries.values()), "query")
        scores, indices = search(query_embeddings, self.encode(list(documents.values()), "document"), depth)
        names = list(documents)
        return {
            query: {names[index]: score for index, score in zip(found, values, strict=True)}
            for query, found, values in zip(queries, indices.tolist(), scores.tolist(), strict=True)
        }

    def encode(self, texts: Sequence[str], role: str) -> Tensor:
        """Embeddings [len(texts), dim] of queries or documents, float32 on the device, sharded over the ranks."""
        starts = range(0, len(texts), TEXTS_PER_BLOCK)
        return torch.cat([self._encode_block(list(texts[start : start + TEXTS_PER_BLOCK]), role) for start in starts])

    def _encode_block(self, texts: list[str], role: str) -> Tensor:
        rows = tokenize_sharded(lambda part: self.tokenizer(texts[part], role=role), len(texts))
        return score_rows(self.forward, rows, self.tokenizer.padding, self.token_budget, self.device, key="embedding")


def search(queries: Tensor, documents: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Cosines and indices [queries, min(depth, documents)] of the nearest documents, by falling cosine, exactly."""
    queries, documents = normalize(queries, dim=-1), normalize(documents, dim=-1)
    depth = min(depth, len(documents))
    found = []
    for part in queries.split(QUERIES_PER_BLOCK):
        scores = queries.new_empty(len(part), 0)
        indices = torch.empty(len(part), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, len(documents), DOCUMENTS_PER_BLOCK):
            similarities = part @ documents[start : start + DOCUMENTS_PER_BLOCK].T
            new = torch.arange(start, start + similarities.shape[1], device=queries.device).expand_as(similarities)
            scores, indices = torch.cat([scores, similarities], dim=1), torch.cat([indices, new], dim=1)
            scores, kept = scores.topk(min(depth, scores.shape[1]), dim=1)
            indices = indices.gather(1, kept)
        found.append((scores, indices))
    return torch.cat([scores for scores, _ in found]), torch.cat([indices for _, indices in found])
