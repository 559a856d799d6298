"""CoSENT and AnglE: all (query, document) pairs of the batch in the order of their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.contracts import MatrixLoss
from losses.math.checks import check_positive
from losses.math.masking import at_least_float32, without_padding
from losses.math.share import ALONE, Share, host_values
from losses.math.similarity import DOT, Similarity


@dataclass(frozen=True)
class CoSENT(MatrixLoss):
    """log(1 + sum_{y_a > y_b} exp((s_b - s_a) / T))  (Huang et al. 2024, doi 10.1109/TASLP.2024.3402087).

    a and b are pairs of a query and a document of its list; they may come from the same list or from two. s is the
    similarity of a pair. Labels may have any scale: only their order matters. The term of a and b is multiplied by the
    `weights` of both queries. The loss is 0 if all labels are equal. M pairs cost M log M.

    The temperature is fixed, or null to use the model's `scale` = 1 / T.

    Use: graded similarities of pairs (STS), compared over the whole batch.
    Cost: Q n log(Q n).
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("levels",)
    sharded: ClassVar[bool] = True

    temperature: float | None = 0.05

    def __post_init__(self) -> None:
        if self.temperature is not None:
            check_positive("temperature", self.temperature)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("similarity", *(("scale",) if self.temperature is None else ()))

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
        """queries [Q, dim], documents [Q, n, dim], labels and mask [Q, n], weights [Q], scale (a scalar) -> scalar."""
        scale = inputs["scale"] if self.temperature is None else 1 / self.temperature
        documents = without_padding(at_least_float32(documents), mask)
        own = self.compare(at_least_float32(queries).unsqueeze(1).expand_as(documents), documents, similarity) * scale
        # A number per pair: every rank has those of all ranks, and orders them.
        on_cpu = host_values(mask, share)
        places = on_cpu.flatten().nonzero().squeeze(1).to(mask.device, non_blocking=True)
        similarities = share.gather(own).flatten()[places]
        log_weights = torch.zeros_like(similarities)
        if weights is not None:
            of_lists = share.whole(weights).to(mask.device, similarities.dtype, non_blocking=True)
            of_lists = of_lists.clamp(min=torch.finfo(similarities.dtype).tiny)
            list_index = on_cpu.nonzero()[:, 0].to(mask.device, non_blocking=True)
            log_weights = of_lists.log()[list_index]
        of_pairs = host_values(labels, share)[on_cpu].to(mask.device, non_blocking=True)
        return log_misordered(similarities, of_pairs, log_weights)

    def compare(self, queries: Tensor, documents: Tensor, similarity: Similarity) -> Tensor:
        """queries, documents: [..., dim], the two sides of pairs -> [...], their similarities."""
        return similarity.aligned(queries, documents)


@dataclass(frozen=True)
class AnglE(CoSENT):
    """CoSENT with s = abs(cos + sin) of complex vectors  (Li and Li 2024, AnglE, arXiv 2309.12871).

    The first half of an embedding is the real part, the second half the imaginary part. For vectors of unit length, the
    real and imaginary part of their product q d* are cos = <q, d> and sin = <q_im, d_re> - <q_re, d_im>. This follows
    the authors' code and sentence-transformers: equation 3 of the paper subtracts the other way around. An odd
    dimension is padded with a zero.

    Use: CoSENT if many cosines are near 1 or -1.
    Cost: Q n log(Q n).
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for name in super().inputs if name != "similarity")

    def compare(self, queries: Tensor, documents: Tensor, similarity: Similarity) -> Tensor:
        odd = queries.shape[-1] % 2
        queries, documents = (F.normalize(F.pad(rows, (0, odd)), dim=-1) for rows in (queries, documents))
        (query_re, query_im), (document_re, document_im) = queries.chunk(2, dim=-1), documents.chunk(2, dim=-1)
        cosines = (queries * documents).sum(dim=-1)
        sines = (query_im * document_re - query_re * document_im).sum(dim=-1)
        return (cosines + sines).abs()


def log_misordered(scores: Tensor, labels: Tensor, log_weights: Tensor) -> Tensor:
    """Return log(1 + sum over labels_a > labels_b of w_a w_b exp(scores_b - scores_a)); all [M] -> scalar."""
    order = labels.argsort(descending=True)
    scores, labels, log_weights = scores[order], labels[order], log_weights[order]
    # log_sums: log sum_a w_a exp(-s_a) over the first k in order; num_higher: for each b, how many are above it.
    log_sums = (log_weights - scores).logcumsumexp(dim=0)
    num_higher = torch.searchsorted(-labels, -labels)
    terms = scores + log_weights + log_sums[num_higher - 1]
    terms = terms.masked_fill(num_higher == 0, torch.finfo(terms.dtype).min)  # the highest label is below none
    return torch.cat([scores.new_zeros(1), terms]).logsumexp(dim=0)
