"""Preferences between two documents: Bradley-Terry, DPO and its variants, SimPO and ORPO.

A preference is a pair y_i > y_j of one list: chosen and rejected are a list of two documents with labels 1 and 0. In
longer or graded lists all such pairs are compared. A list's loss is the mean over its pairs; a list without a pair is
not valid. Padding is in no pair.

A reranker's score is its log-odds of "yes". So the policy's log-ratio of i to j is s_i - s_j, and the partition
function cancels. Losses with a reference r use the difference of the implicit rewards h = beta (s - r):

    Delta = beta ((s_i - s_j) - (r_i - r_j))
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.checks import check_at_least, check_finite, check_positive
from losses.math.masking import at_least_float32
from losses.math.pairs import differences, label_pairs, mean_over_pairs


class PairLoss(ListLoss):
    """A function of the difference of two scores, averaged over the pairs y_i > y_j of the list."""

    @abstractmethod
    def pair_losses(self, margins: Tensor) -> Tensor:
        """margins s_i - s_j, any shape -> the loss of each pair, elementwise."""

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        return mean_over_pairs(self.pair_losses(differences(scores, mask)), label_pairs(labels, mask))


@dataclass(frozen=True)
class ReferencePairLoss(PairLoss):
    """A `PairLoss` of the log-ratios to a frozen reference: s - r in place of s.

    beta: the strength of the constraint to the reference; the higher, the closer the model stays to it.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("reference_scores",)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels, mask and reference_scores: [..., n] -> values [...], valid [...] bool."""
        return super().per_list(log_ratios(scores, inputs["reference_scores"]), labels, mask)


def log_ratios(scores: Tensor, reference_scores: Tensor) -> Tensor:
    """Return s - r, [..., n], at least float32. The reference is a constant. Padding may have any value."""
    return at_least_float32(scores) - at_least_float32(reference_scores.detach())


@dataclass(frozen=True)
class BradleyTerry(PairLoss):
    """-logsigmoid(s_i - s_j - margin)  (Bradley and Terry 1952; the margin as in Llama 2, arXiv 2307.09288, eq. 2).

    At margin 0 this equals RankNet with sigma 1.

    Use: preference pairs without a reference; `margin` is the score difference to reach.
    Cost: n^2.
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        check_finite("margin", self.margin)

    def pair_losses(self, margins: Tensor) -> Tensor:
        return -F.logsigmoid(margins - self.margin)


@dataclass(frozen=True)
class DPO(ReferencePairLoss):
    """-logsigmoid(Delta)  (Rafailov et al., arXiv 2305.18290, eq. 7; TRL's `sigmoid`).

    Use: preferences, starting from a trained model from which the new one should not move far away.
    Cost: n^2, and the reference's scores.
    """

    def pair_losses(self, margins: Tensor) -> Tensor:
        return -F.logsigmoid(self.beta * margins)


@dataclass(frozen=True)
class ConservativeDPO(ReferencePairLoss):
    """-(1 - e) logsigmoid(Delta) - e logsigmoid(-Delta), e = label_smoothing  (cDPO; Mitchell 2023).

    A fraction e of the preferences is assumed to be flipped. The minimum is at Delta = log((1 - e) / e).

    Use: DPO if some preferences may be wrong: the score difference stays finite.
    Cost: n^2, and the reference's scores.
    Source: cDPO, Mitchell 2023.
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)

    def pair_losses(self, margins: Tensor) -> Tensor:
        delta, flipped = self.beta * margins, self.label_smoothing
        return -(1 - flipped) * F.logsigmoid(delta) - flipped * F.logsigmoid(-delta)


@dataclass(frozen=True)
class RobustDPO(ReferencePairLoss):
    """[-(1 - e) logsigmoid(Delta) + e logsigmoid(-Delta)] / (1 - 2 e), e = label_smoothing.

    Chowdhury et al., arXiv 2403.00409; TRL's `robust`. If preferences are flipped with probability e, its expectation
    is the DPO loss of the true preferences. It is not bounded below: it falls by e / (1 - 2 e) per unit of a large
    Delta.

    Use: DPO if a known fraction of the preferences is wrong.
    Cost: n^2, and the reference's scores.
    Source: Chowdhury et al. 2024, arXiv 2403.00409; TRL's `robust`.
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)

    def pair_losses(self, margins: Tensor) -> Tensor:
        delta, flipped = self.beta * margins, self.label_smoothing
        return (flipped * F.logsigmoid(-delta) - (1 - flipped) * F.logsigmoid(delta)) / (1 - 2 * flipped)


@dataclass(frozen=True)
class IPO(ReferencePairLoss):
    """(Delta / beta - 1 / (2 beta))^2  (Azar et al., arXiv 2310.12036, eq. 17; TRL's `ipo`).

    The target of the log-ratio is 1 / (2 beta): so preferences without exceptions do not drive the scores to infinity.

    Use: preferences that never contradict each other, for which DPO would push the scores apart without limit.
    Cost: n^2, and the reference's scores.
    """

    def pair_losses(self, margins: Tensor) -> Tensor:
        return (margins - 1 / (2 * self.beta)).square()


@dataclass(frozen=True)
class Hinge(ReferencePairLoss):
    """relu(1 - Delta)  (SLiC, arXiv 2305.10425, on implicit rewards as in RSO, arXiv 2309.06657; TRL's `hinge`).

    Use: DPO that no longer trains a pair once its log-ratio reaches 1 / beta.
    Cost: n^2, and the reference's scores.
    """

    def pair_losses(self, margins: Tensor) -> Tensor:
        return (1 - self.beta * margins).relu()


@dataclass(frozen=True)
class SimPO(PairLoss):
    """-logsigmoid(beta (s_i - s_j) - gamma)  (Meng et al., arXiv 2405.14734, eq. 6). Without a reference.

    gamma is TRL's `simpo_gamma`; the option of the paper's code is gamma / beta, 0.5 by default.

    Use: preferences without a reference, with a target for the score difference.
    Cost: n^2.
    """

    beta: float = 2.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_finite("gamma", self.gamma)

    def pair_losses(self, margins: Tensor) -> Tensor:
        return -F.logsigmoid(self.beta * margins - self.gamma)


@dataclass(frozen=True)
class ORPO(ListLoss):
    """-logsigmoid(s_i) - beta logsigmoid(s_i - s_j)  (Hong et al., arXiv 2403.07691, eq. 6). Without a reference.

    P("yes") = sigmoid(s) has the odds e^s. So the log odds ratio of chosen and rejected is s_i - s_j, and the negative
    log-likelihood of the chosen document is a logistic loss. beta is the paper's lambda, with TRL's name.

    Use: preferences and supervision together, without a reference, for scores that are log-odds of "yes".
    Cost: n^2.
    """

    shift_invariant: ClassVar[bool] = False  # the likelihood of "yes" is absolute

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores (log-odds of "yes"), labels, mask: [..., n] -> values [...], valid [...] bool."""
        scores = at_least_float32(scores).masked_fill(~mask, 0.0)
        likelihood = -F.logsigmoid(scores).unsqueeze(-1)
        odds_ratio = -F.logsigmoid(differences(scores, mask))
        return mean_over_pairs(likelihood + self.beta * odds_ratio, label_pairs(labels, mask))


def check_label_smoothing(value: float) -> None:
    """Raise ValueError outside [0, 0.5): from 0.5 on, preferences would carry no information or the opposite one."""
    check_at_least("label_smoothing", value, 0.0)
    if value >= 0.5:
        raise ValueError(f"label_smoothing must be below 0.5, the fraction of flipped preferences, got {value}")
