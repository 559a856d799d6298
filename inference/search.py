"""Search documents that come block by block, the queries sharded over the ranks, in an index of any similarity."""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import torch
from torch import Tensor

from engines.distributed.collectives import gather_rows
from engines.distributed.process_group import rank, world_size
from losses.math.similarity import DotProduct, Similarity

LOW = 0xFFFFFFFF


class Index(Protocol):
    """n documents, made ready to be searched by a similarity."""

    @staticmethod
    def fits(similarity: Similarity) -> bool:
        """Whether documents can be searched by `similarity`."""

    def __init__(self, similarity: Any, documents: Any): ...

    def nearest(self, queries: Any, depth: int) -> tuple[Tensor, Tensor]:
        """Scores and indices [queries, at least min(depth, n)], among them the best ones."""


class ExactIndex:
    """Gives all similarities: `BlockSearch` takes the best of them."""

    @staticmethod
    def fits(similarity: Similarity) -> bool:
        return True

    def __init__(self, similarity: Similarity, documents: Any):
        self.similarity = similarity
        self.documents = documents

    def nearest(self, queries: Any, depth: int) -> tuple[Tensor, Tensor]:
        scores = self.similarity.matrix(queries, self.documents)
        return scores, torch.arange(len(self.documents), device=scores.device).expand_as(scores)


class FaissIndex:
    """Gives the best by faiss' flat index, on the CPU. Which of equal scores are at the cut is up to faiss."""

    @staticmethod
    def fits(similarity: Similarity) -> bool:
        return isinstance(similarity, DotProduct)

    def __init__(self, similarity: DotProduct, documents: Tensor):
        import faiss

        self.size = len(documents)
        self.index = faiss.IndexFlatIP(documents.shape[1])
        self.index.add(documents.cpu().contiguous().numpy())

    def nearest(self, queries: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        scores, indices = self.index.search(queries.cpu().contiguous().numpy(), min(depth, self.size))
        return torch.from_numpy(scores).to(queries.device), torch.from_numpy(indices).to(queries.device)


INDEXES: dict[str, type[Index]] = {"exact": ExactIndex, "faiss": FaissIndex}


def check_search(name: str) -> None:
    """Raises ValueError if there is no index of that name, or its package is missing."""
    if name not in INDEXES:
        raise ValueError(f"eval.search={name}: choose {' or '.join(INDEXES)}")
    if name == "faiss" and importlib.util.find_spec("faiss") is None:
        raise ValueError(
            "eval.search=faiss needs the package faiss: pip install faiss-cpu, or choose eval.search=exact"
        )


def index_for(name: str, similarity: Similarity) -> type[Index]:
    """The index of that name. Raises ValueError if it cannot be searched by `similarity`."""
    index = INDEXES[name]
    if not index.fits(similarity):
        fitting = " or ".join(other for other, kind in INDEXES.items() if kind.fits(similarity))
        raise ValueError(f"eval.search={name} does not search by {similarity.name}: choose eval.search={fitting}")
    return index


class BlockSearch:
    """The `depth` best documents for every query among those that were added.

    Blocks of `query_block` queries are searched, block i on rank i mod W, so memory is one block of documents and of
    similarities, whatever the corpus. No product depends on W: the results are equal bit by bit on any number of ranks.
    Equal scores stand in the order of the documents.
    """

    def __init__(self, queries: Any, depth: int, *, query_block: int, similarity: Similarity, index: type[Index]):
        self.num_queries = len(queries)
        self.depth = depth
        self.similarity = similarity
        self.index = index
        self.added = 0
        blocks = list(zip(queries.split(query_block), torch.arange(len(queries)).split(query_block), strict=True))
        own = blocks[rank() :: world_size()]
        self.queries = [part for part, _ in own]
        self.positions = torch.cat([places for _, places in own]) if own else torch.empty(0, dtype=torch.int64)
        self.keys = [torch.empty(len(part), 0, dtype=torch.int64, device=queries.device) for part in self.queries]
        self.device = queries.device

    def add(self, documents: Any) -> None:
        """Search the next documents, representations [n, ...], the same on every rank."""
        if not self.queries:
            self.added += len(documents)
            return
        index = self.index(self.similarity, documents)
        for i, part in enumerate(self.queries):
            scores, indices = index.nearest(part, self.depth)
            keys = torch.cat([self.keys[i], pack(scores, indices + self.added)], dim=1)
            self.keys[i] = keys.topk(min(self.depth, keys.shape[1]), dim=1).values
        self.added += len(documents)

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and indices [queries, min(depth, documents)], best first, on every rank."""
        none = torch.empty(0, min(self.depth, self.added), dtype=torch.int64, device=self.device)
        keys = gather_rows({"keys": torch.cat([none, *self.keys])}, self.positions, self.num_queries)["keys"]
        return unpack(keys)


def pack(scores: Tensor, indices: Tensor) -> Tensor:
    """Float32 scores and indices below 2^32 as distinct int64 keys that sort by score, then by falling index.

    `topk` alone leaves equal scores to chance.
    """
    bits = (scores.float() + 0.0).view(torch.int32).long()  # + 0.0: -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered << 32) | (LOW - indices)


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `pack`."""
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    return bits.int().view(torch.float32), LOW - (keys & LOW)
