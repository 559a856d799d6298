"""Unique softmax: each document against the less relevant ones, never against one of the same grade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_one_of, check_positive
from losses.math.exponentials import exponential_gains
from losses.math.masking import at_least_float32, masked_logits
from losses.math.pairs import label_pairs


@dataclass(frozen=True)
class UniqueSoftmax(ListLoss):
    """-sum_i g_i log [e^{s_i} / (e^{s_i} + sum_{y_j < y_i} e^{s_j})]  (Zhu and Klabjan 2020, arXiv 2001.01828; rax).

    s is divided by `temperature`; g_i = 2^y_i - 1 ("exponential") or y_i ("linear"). The gains of a list with a
    label above 50 are divided by the power of two that makes the largest 2^50: float32 could not hold them. Padding is
    left out. A list is valid if two documents have different labels.

    Use: graded labels if documents of the same grade should not compete.
    Cost: n^2.
    """

    temperature: float = 1.0
    gain: str = "exponential"

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_one_of("gain", self.gain, ("exponential", "linear"))

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """scores, labels (>= 0), mask: [..., n] -> values [...], valid [...] bool."""
        logits = masked_logits(scores, mask, self.temperature)
        labels = at_least_float32(labels).masked_fill(~mask, 0.0).to(logits.dtype)
        gains = exponential_gains(labels) if self.gain == "exponential" else labels
        pairs = label_pairs(labels, mask)
        itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        compared = logits.unsqueeze(-2).masked_fill(~(pairs | itself), torch.finfo(logits.dtype).min)
        losses = compared.logsumexp(dim=-1) - logits
        return (gains * losses).sum(dim=-1), pairs.any(dim=-1).any(dim=-1)
