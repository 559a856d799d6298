"""Exact search by dot product over documents that come block by block, the queries sharded over the ranks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from engines.distributed.collectives import gather_rows
from engines.distributed.process_group import rank, world_size

# (queries [q, dim], depth) -> scores, indices [q, at least min(depth, n)] that hold the best ones of n documents
Nearest = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Index = Callable[[Tensor], Nearest]  # of documents [n, dim]

LOW = 0xFFFFFFFF


class BlockSearch:
    """The `depth` best documents of every query among those that were added.

    Blocks of `query_block` queries are searched, block i on rank i mod W, so memory is one block of documents and of
    similarities, whatever the corpus. No product depends on W: the results are equal bit by bit on any number of ranks.
    Equal scores stand in the order of the documents.
    """

    def __init__(self, queries: Tensor, depth: int, *, query_block: int, index: Index):
        self.num_queries = len(queries)
        self.depth = depth
        self.index = index
        self.added = 0
        blocks = list(zip(queries.split(query_block), torch.arange(len(queries)).split(query_block), strict=True))
        own = blocks[rank() :: world_size()]
        self.queries = [part for part, _ in own]
        self.rows = torch.cat([rows for _, rows in own]) if own else torch.empty(0, dtype=torch.int64)
        self.keys = [torch.empty(len(part), 0, dtype=torch.int64, device=queries.device) for part in self.queries]
        self.device = queries.device

    def add(self, documents: Tensor) -> None:
        """The next documents, [n, dim], on every rank."""
        if not self.queries:
            self.added += len(documents)
            return
        nearest = self.index(documents)
        for i, part in enumerate(self.queries):
            scores, indices = nearest(part, self.depth)
            keys = torch.cat([self.keys[i], pack(scores, indices + self.added)], dim=1)
            self.keys[i] = keys.topk(min(self.depth, keys.shape[1]), dim=1).values
        self.added += len(documents)

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and indices [queries, min(depth, documents)], best first, on every rank."""
        none = torch.empty(0, min(self.depth, self.added), dtype=torch.int64, device=self.device)
        keys = gather_rows({"keys": torch.cat([none, *self.keys])}, self.rows, self.num_queries)["keys"]
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


def exact(documents: Tensor) -> Nearest:
    """All dot products: `BlockSearch` takes the best of them."""

    def nearest(queries: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        scores = queries @ documents.T
        return scores, torch.arange(len(documents), device=scores.device).expand_as(scores)

    return nearest


def faiss(documents: Tensor) -> Nearest:
    """The best by faiss' flat index, on the CPU. Which of equal scores are at the cut is up to faiss."""
    import faiss

    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents.cpu().contiguous().numpy())

    def nearest(queries: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        scores, indices = index.search(queries.cpu().contiguous().numpy(), min(depth, len(documents)))
        return torch.from_numpy(scores).to(queries.device), torch.from_numpy(indices).to(queries.device)

    return nearest


SEARCHES: dict[str, Index] = {"exact": exact, "faiss": faiss}


def check_search(name: str) -> None:
    """ValueError where there is no such search, or its package is missing."""
    if name not in SEARCHES:
        raise ValueError(f"eval.search={name}: choose {' or '.join(SEARCHES)}")
    if name == "faiss" and importlib.util.find_spec("faiss") is None:
        raise ValueError(
            "eval.search=faiss needs the package faiss: pip install faiss-cpu, or choose eval.search=exact"
        )
