"""Token pooling: fewer vectors per document, where they are stored.

Source: Clavié, Chaffin and Adams 2024, "Reducing the Footprint of Multi-Vector Retrieval with Minimal Performance
Impact via Token Pooling", arXiv 2409.14683 (hierarchical clustering by Ward's method on cosine distances).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tensors.ragged import Ragged, concatenate


def pool_tokens(
    rows: Ragged,
    is_query: Tensor,
    *,
    pool_factor: float,
    num_protected_tokens: int = 1,
    normalize_embeddings: bool = True,
    tasks: tuple[str, ...] = ("document",),
    **_: Any,
) -> Ragged:
    """Merge the token vectors of each text in clusters, about one for `pool_factor` vectors, and take their means.

    is_query [rows] bool, on the host: only texts whose role is among `tasks` are pooled. The first
    `num_protected_tokens` of a text stay. The arguments are those of sentence-transformers' HierarchicalTokenPooling.
    """
    if pool_factor <= 1 or len(rows) == 0:
        return rows
    found = []
    for row, query in zip(rows.split(1), is_query.tolist(), strict=True):
        if ("query" if query else "document") not in tasks:
            found.append(row)
            continue
        pooled = _pool(row.values, pool_factor, num_protected_tokens)
        pooled = normalize(pooled, dim=-1) if normalize_embeddings else pooled
        found.append(Ragged(pooled, torch.tensor([len(pooled)])))
    pooled_rows: Ragged = concatenate(found)
    return pooled_rows


def _pool(vectors: Tensor, factor: float, protected: int) -> Tensor:
    """The protected vectors, then the means of clusters of the others."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    kept, others = vectors[:protected], vectors[protected:]
    clusters = max(int(len(others) // factor), 1)
    if clusters >= len(others):
        return vectors
    on_cpu = others.detach().float().cpu()
    distances = (1 - on_cpu @ on_cpu.T).clamp(0, 2).numpy()
    linked = hierarchy.linkage(squareform(distances, checks=False), method="ward")
    labels = hierarchy.fcluster(linked, t=clusters, criterion="maxclust")
    _, places = np.unique(labels, return_inverse=True)
    index = torch.from_numpy(places).to(vectors.device)
    counts = torch.bincount(index)
    sums = others.new_zeros(len(counts), others.shape[1]).index_add_(0, index, others)
    return torch.cat([kept, sums / counts.unsqueeze(1)])
