"""Sparsity: a penalty that makes the weights of a sparse encoder zero, as a term beside another loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from losses.contracts import MatrixLoss, Statistics
from losses.math.checks import check_one_of
from losses.math.masking import at_least_float32, rows_where
from losses.math.share import ALONE, Share

FORMS = ("flops", "l1")
ROLES = ("query", "document")


@dataclass(frozen=True)
class Sparsity(MatrixLoss):
    """sum_v (mean_b |w_bv|)^2 (flops) or mean_b sum_v |w_bv| (l1)  (Paria et al. 2020, arXiv 2004.05665).

    w_b are the weights of text b, and the mean is over all texts of a role in the global step: its queries, its
    documents, or the sum of both (`roles`). FLOPS is, up to a factor, the expected number of products of a search: it
    punishes a token that many texts have more than one that few have. A list's `weights` multiply those of its texts.
    It is no objective alone: use it as a term of loss=weighted_sum (loss=splade). Logged: `nonzeros`, the mean number
    of weights of a text that are not 0.

    Labels are not read.

    Use: a sparse encoder, as a term beside the loss that it ranks by.
    Cost: d for each text.
    """

    sharded: ClassVar[bool] = True
    data_requirements: ClassVar[tuple[str, ...]] = ()
    is_penalty: ClassVar[bool] = True  # no objective, so no loss that fits a data set

    form: str = "flops"
    roles: tuple[str, ...] = ROLES

    def __post_init__(self) -> None:
        check_one_of("form", self.form, FORMS)
        if not self.roles or len(set(self.roles)) != len(self.roles):
            raise ValueError(f"roles={list(self.roles)} must be one or more of: {', '.join(ROLES)}")
        for role in self.roles:
            check_one_of("roles", role, ROLES)

    def __call__(  # type: ignore[override]
        self,
        queries: Tensor,
        documents: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        weights: Tensor | None = None,
        share: Share = ALONE,
    ) -> tuple[Tensor, Statistics]:
        """queries [Q, dim], documents [Q, n, dim], mask [Q, n], weights [Q] -> scalar, and the number of nonzeros."""
        # A list of padding only has no query either.
        texts = {"query": (queries.unsqueeze(1), mask.any(dim=1, keepdim=True)), "document": (documents, mask)}
        found = [self._of_role(*texts[role], weights, share) for role in self.roles]
        penalties, nonzeros = zip(*found, strict=True)
        return torch.stack(penalties).sum(), {"nonzeros": torch.stack(nonzeros).mean()}

    def _of_role(self, values: Tensor, mask: Tensor, weights: Tensor | None, share: Share) -> tuple[Tensor, Tensor]:
        """values [Q, n, dim] at mask [Q, n] -> the penalty and the mean number of nonzeros, scalars. All that the ranks
        sum are the weights by token, or their total, and two counts."""
        rows = at_least_float32(rows_where(values, mask))
        sizes = rows.abs()
        if weights is not None:
            of_texts = weights.to(rows.dtype).unsqueeze(1).expand_as(mask)
            sizes = sizes * rows_where(of_texts.unsqueeze(-1), mask)
        totals = sizes.sum(dim=0) if self.form == "flops" else sizes.sum().unsqueeze(0)
        counts = torch.stack([mask.sum(), (rows.detach() != 0).sum()]).to(totals.dtype)
        sums = share.sum(torch.cat([totals, counts]))
        number, nonzeros = sums[-2].detach().clamp(min=1), sums[-1].detach()
        means = sums[:-2] / number
        return (means.square() if self.form == "flops" else means).sum(), nonzeros / number
