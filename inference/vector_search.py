"""Search stored vectors of any precision by float32 queries, block by block, on all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data.progress import show_progress
from engines.distributed.collectives import gather_rows
from engines.distributed.process_group import rank, world_size
from inference.pieces.ragged import RaggedVectors
from inference.search import BlockSearch, ExactIndex, Index, pack, unpack
from inference.vectors import StoredVectors
from losses.math.similarity import DOT, Similarity, similarity_named

DOCUMENT_BLOCK, VALUES = 16384, 2**26  # vectors that are searched at once, and their values at most: 256 MiB
RESCORED_AT_ONCE = 2**24  # values of documents that are rescored at once: 64 MiB


def search_stored(
    queries: Any,
    stored: StoredVectors | RaggedVectors,
    depth: int,
    *,
    hamming: bool = False,
    rescore: int | None = None,
    query_block: int = 256,
    index: type[Index] = ExactIndex,
) -> tuple[Tensor, Tensor]:
    """Find the `depth` best stored vectors for each query: scores and rows [queries, min(depth, n)], best first, the
    same on all ranks. `queries` [queries, dim or more] float32, or as many ragged rows, are a model's embeddings.

    The score is the similarity of the query and the row as `block` of the stored vectors gives it: float32, float16,
    int8 dequantised, or signs. Equal scores are in the order of the rows. For one vector per text alone: with `hamming`
    the queries are signs too, so that the order is that of the Hamming distance d: the score is dim - 2 d. With
    `rescore` the `rescore` times `depth` nearest by Hamming are then ordered by the float32 queries.
    """
    similarity = similarity_named(stored.similarity)
    queries = similarity.comparable(queries, stored.dim)  # ragged rows are never signs
    first = torch.where(queries > 0, 1.0, -1.0) if hamming or rescore else queries
    search = BlockSearch(first, depth * (rescore or 1), query_block=query_block, similarity=similarity, index=index)
    blocks = search_slices(stored)
    for part in show_progress(blocks, "searching", len(blocks), "blocks of vectors"):
        block: Any = stored.block(part.start, part.stop)
        block = torch.where(block > 0, 1.0, -1.0) if first is not queries and stored.precision != "binary" else block
        search.add(block.to(queries.device))
    scores, rows = search.result()
    return _rescore(queries, stored, rows, depth) if rescore else (scores, rows)


def search_slices(stored: StoredVectors | RaggedVectors) -> list[slice]:
    """The rows that are searched at once."""
    return stored.slices(DOCUMENT_BLOCK, VALUES)


def block_size(dim: int) -> int:
    """How many stored vectors of so many dimensions are searched at once."""
    return min(DOCUMENT_BLOCK, max(1, VALUES // dim))


def _rescore(queries: Tensor, stored: Any, rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The `depth` best of each query's `rows`, by the queries as they are. Blocks of queries are shared over the
    ranks."""
    size = max(1, RESCORED_AT_ONCE // (rows.shape[1] * stored.dim))
    blocks = torch.arange(len(queries)).split(size)[rank() :: world_size()]
    keys = [torch.empty(0, min(depth, rows.shape[1]), dtype=torch.int64, device=queries.device)]
    for places in blocks:
        chosen = rows[places]
        documents = stored.rows(chosen.flatten().cpu()).view(*chosen.shape, -1).to(queries.device)
        scores = DOT.pairs(queries[places], documents)
        keys.append(pack(scores, chosen).topk(keys[0].shape[1], dim=1).values)
    positions = torch.cat(blocks) if blocks else torch.empty(0, dtype=torch.int64)
    return unpack(gather_rows({"keys": torch.cat(keys)}, positions, len(queries))["keys"])


def documents_at_once(similarity: Similarity, dimension: int, tokenizer: Any) -> int:
    """How many documents of a model with this similarity, tokenizer and dimension are in memory at once: as many as
    have vectors of 256 MiB if all are as long as may be, at most 16,384."""
    vectors = tokenizer.max_length if similarity.is_ragged else 1
    return block_size(dimension * vectors)
