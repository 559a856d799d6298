"""SigLIP: a sigmoid for every pair of a query and a document, no softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.contracts import MatrixLoss
from losses.math.checks import check_finite, check_one_of, check_positive
from losses.math.in_batch import IN_BATCH, TEXT_INPUTS, InBatch
from losses.math.share import ALONE, Share, mean_over_lists
from losses.math.similarity import DOT, Similarity
from losses.math.tiles import Tile


@dataclass(frozen=True)
class SigLIP(MatrixLoss):
    """-1/Q sum_i sum_j logsigmoid(z_ij (s_ij / T + b))  (Zhai et al. 2023, arXiv 2303.15343, algorithm 1).

    s_ij is the similarity of query i and document j. z = 1 for the documents of the query's list whose label is above
    0, z = -1 for the others of its list and, by `in_batch`, for those of other lists. With `mask_duplicates`, a
    negative is left out if its text is a positive of the query in any list of the batch, or one of `never_negatives`:
    judged relevant for the query by the data, excluded, or the query's own. Padding is left out. Q is the number of
    queries with a positive; their sums are multiplied by `weights`. Documents of queries without a positive are still
    negatives. A list that the data isolate (`data.in_batch=false`) is compared with its own documents only.

    Temperature and bias are fixed, or null to use the model's (`scale` = 1 / T), which are learned from the initial
    values 1 / T = 10 and b = -10.

    Use: large batches without a softmax: the loss of a pair does not depend on the other pairs.
    Cost: Q^2 n d; in blocks, memory Q n d.
    """

    sharded: ClassVar[bool] = True

    temperature: float | None = 0.1
    bias: float | None = -10.0
    in_batch: str = "all"
    mask_duplicates: bool = True

    def __post_init__(self) -> None:
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        if self.bias is not None:
            check_finite("bias", self.bias)
        check_one_of("in_batch", self.in_batch, IN_BATCH)

    @property
    def in_batch_negatives(self) -> bool:
        return True

    @property
    def inputs(self) -> tuple[str, ...]:
        return (
            "similarity",
            *(("scale",) if self.temperature is None else ()),
            *(("bias",) if self.bias is None else ()),
            *(("query_hashes", "document_hashes") if self.mask_duplicates else ()),
        )

    @property
    def optional_inputs(self) -> tuple[str, ...]:
        return ("isolated", *(("never_negatives",) if self.mask_duplicates else ()))

    def __call__(
        self,
        queries: Tensor,
        documents: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        weights: Tensor | None = None,
        similarity: Similarity = DOT,
        share: Share = ALONE,
        **inputs: Tensor,
    ) -> Tensor:
        """queries [Q, dim], documents [Q, n, dim], labels and mask [Q, n], weights [Q] -> scalar.

        The further inputs depend on the options (see the property `inputs`): scale and bias, scalars; query_hashes [Q]
        and document_hashes [Q, n] int64, equal for equal texts; never_negatives [any, 2] int64, a list and the hash of
        a text that is no negative of it; isolated [Q] bool.
        """
        texts = {name: inputs.get(name) for name in TEXT_INPUTS} if self.mask_duplicates else {}
        batch = InBatch.from_lists(
            queries, documents, labels, mask, similarity, isolated=inputs.get("isolated"), share=share, **texts
        )
        scalars: dict[str, Tensor] = {name: inputs[name] for name in ("scale", "bias") if name in self.inputs}

        def values(tile: Tile) -> tuple[Tensor]:
            scale = 1 / self.temperature if self.temperature is not None else tile.scalars["scale"]
            bias = self.bias if self.bias is not None else tile.scalars["bias"]
            logits = similarity.matrix(tile.rows["query"], tile.columns["text"]) * scale + bias
            query = batch.own_queries[tile.row]
            positive = batch.in_own_list(query, tile.column) & batch.relevant[tile.column]
            terms = F.logsigmoid(torch.where(positive, logits, -logits))
            counted = positive | batch.negative_documents(query, tile.column, self.in_batch)
            return (-terms.where(counted, torch.zeros_like(terms)).sum(dim=1),)

        (sums,) = batch.over_tiles(values, {"query": batch.queries}, "doc", scalars, in_batch=self.in_batch)
        has_positive = torch.zeros_like(batch.own_queries, dtype=torch.bool).index_fill(0, batch.pair_queries, True)
        return mean_over_lists(sums.sum(dim=0), has_positive, weights, share)
