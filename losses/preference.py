"""Preferences between two documents: Bradley-Terry, DPO and its relatives, SimPO and ORPO.

A preference is a pair y_i > y_j of one list: chosen and rejected are a list of two documents, labels 1 and 0. Longer
lists and graded ones compare all such pairs; a list's loss is their mean, and a list without a pair does not count.

A reranker's score is its log-odds of "yes", so the policy's log-ratio of i to j is s_i - s_j and the partition function
cancels. Losses with a reference r act on the difference of the implicit rewards h = beta (s - r):

    Delta = beta ((s_i - s_j) - (r_i - r_j))
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from losses.contracts import ListLoss
from losses.math.masking import above_zero, at_least, at_least_float32, finite
from losses.math.pairs import differences, label_pairs, mean_over_pairs


class PairLoss(ListLoss):
    """A function of the difference of two scores, averaged over the pairs y_i > y_j of the list."""

    @abstractmethod
    def of_margins(self, margins: Tensor) -> Tensor:
        """The loss of each pair, elementwise: margins s_i - s_j."""

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels, mask: [..., n] -> values [...], valid [...] bool."""
        return mean_over_pairs(self.of_margins(differences(scores, mask)), label_pairs(labels, mask))


@dataclass(frozen=True)
class ReferencePairLoss(PairLoss):
    """A `PairLoss` of the log-ratios to a frozen reference, s - r in place of s. beta: how dear leaving it is."""

    beta: float = 0.1

    def __post_init__(self) -> None:
        above_zero("beta", self.beta)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("reference_scores",)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels, mask and reference_scores: [..., n] -> values [...], valid [...] bool."""
        return super().per_list(log_ratios(scores, inputs["reference_scores"]), labels, mask)


def log_ratios(scores: Tensor, reference_scores: Tensor) -> Tensor:
    """s - r in float32 at least; the reference is a constant. [..., n], any value at padding."""
    return at_least_float32(scores) - at_least_float32(reference_scores.detach())


@dataclass(frozen=True)
class BradleyTerry(PairLoss):
    """-logsigmoid(s_i - s_j - margin)  (Bradley and Terry 1952; the margin as in Llama 2, arXiv 2307.09288, eq. 2).

    At margin 0 this is RankNet with sigma 1.

    Use: preference pairs without a reference; `margin` asks for a lead.
    Cost: n^2.
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        finite("margin", self.margin)

    def of_margins(self, margins: Tensor) -> Tensor:
        return -F.logsigmoid(margins - self.margin)


@dataclass(frozen=True)
class DPO(ReferencePairLoss):
    """-logsigmoid(Delta)  (Rafailov et al., arXiv 2305.18290, eq. 7; TRL's `sigmoid`).

    Use: preferences on top of a trained model that is not to be left far behind.
    Cost: n^2, and the reference's scores.
    """

    def of_margins(self, margins: Tensor) -> Tensor:
        return -F.logsigmoid(self.beta * margins)


@dataclass(frozen=True)
class ConservativeDPO(ReferencePairLoss):
    """-(1 - e) logsigmoid(Delta) - e logsigmoid(-Delta), e = label_smoothing  (cDPO; Mitchell 2023).

    The share e of the preferences is taken to be flipped; the minimum lies at Delta = log((1 - e) / e).

    Use: DPO where some preferences may be wrong: the lead stays finite.
    Cost: n^2, and the reference's scores.
    Source: cDPO, Mitchell 2023.
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)

    def of_margins(self, margins: Tensor) -> Tensor:
        delta, flipped = self.beta * margins, self.label_smoothing
        return -(1 - flipped) * F.logsigmoid(delta) - flipped * F.logsigmoid(-delta)


@dataclass(frozen=True)
class RobustDPO(ReferencePairLoss):
    """[-(1 - e) logsigmoid(Delta) + e logsigmoid(-Delta)] / (1 - 2 e), e = label_smoothing.

    Chowdhury et al., arXiv 2403.00409; TRL's `robust`. Its expectation over preferences flipped with probability e is
    the DPO loss of the true ones. Not bounded below: it falls by e / (1 - 2 e) per unit of a large Delta.

    Use: DPO where a known share of the preferences is wrong.
    Cost: n^2, and the reference's scores.
    Source: Chowdhury et al. 2024, arXiv 2403.00409; TRL's `robust`.
    """

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)

    def of_margins(self, margins: Tensor) -> Tensor:
        delta, flipped = self.beta * margins, self.label_smoothing
        return (flipped * F.logsigmoid(-delta) - (1 - flipped) * F.logsigmoid(delta)) / (1 - 2 * flipped)


@dataclass(frozen=True)
class IPO(ReferencePairLoss):
    """(Delta / beta - 1 / (2 beta))^2  (Azar et al., arXiv 2310.12036, eq. 17; TRL's `ipo`).

    The log-ratio itself is drawn to 1 / (2 beta): preferences that never fail do not drive the scores to infinity.

    Use: preferences that never contradict each other, under which DPO would drive the scores apart for ever.
    Cost: n^2, and the reference's scores.
    """

    def of_margins(self, margins: Tensor) -> Tensor:
        return (margins - 1 / (2 * self.beta)).square()


@dataclass(frozen=True)
class Hinge(ReferencePairLoss):
    """relu(1 - Delta)  (SLiC, arXiv 2305.10425, on implicit rewards as in RSO, arXiv 2309.06657; TRL's `hinge`).

    Use: DPO that leaves pairs alone once their lead is 1 / beta.
    Cost: n^2, and the reference's scores.
    """

    def of_margins(self, margins: Tensor) -> Tensor:
        return (1 - self.beta * margins).relu()


@dataclass(frozen=True)
class SimPO(PairLoss):
    """-logsigmoid(beta (s_i - s_j) - gamma)  (Meng et al., arXiv 2405.14734, eq. 6). Without a reference.

    gamma is TRL's `simpo_gamma`; the paper's code gives gamma / beta, 0.5 by default.

    Use: preferences without a reference, with a target for the lead.
    Cost: n^2.
    """

    beta: float = 2.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        above_zero("beta", self.beta)
        finite("gamma", self.gamma)

    def of_margins(self, margins: Tensor) -> Tensor:
        return -F.logsigmoid(self.beta * margins - self.gamma)


@dataclass(frozen=True)
class ORPO(ListLoss):
    """-logsigmoid(s_i) - beta logsigmoid(s_i - s_j)  (Hong et al., arXiv 2403.07691, eq. 6). Without a reference.

    P("yes") = sigmoid(s) has the odds e^s: the log odds ratio of chosen and rejected is s_i - s_j, and the likelihood
    of the chosen one is a logistic loss. beta is the paper's lambda, by TRL's name.

    Use: preferences and supervision at once, without a reference, for scores that are log-odds of "yes".
    Cost: n^2.
    """

    shift_invariant: ClassVar[bool] = False  # the likelihood of "yes" is absolute

    beta: float = 0.1

    def __post_init__(self) -> None:
        above_zero("beta", self.beta)

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores (log-odds of "yes"), labels, mask: [..., n] -> values [...], valid [...] bool."""
        scores = at_least_float32(scores).masked_fill(~mask, 0.0)
        likelihood = -F.logsigmoid(scores).unsqueeze(-1)
        odds_ratio = -F.logsigmoid(differences(scores, mask))
        return mean_over_pairs(likelihood + self.beta * odds_ratio, label_pairs(labels, mask))


def check_label_smoothing(value: float) -> None:
    """Raise ValueError outside [0, 0.5): from there on the preferences would say nothing, or the opposite."""
    at_least("label_smoothing", value, 0.0)
    if value >= 0.5:
        raise ValueError(f"label_smoothing must be below 0.5, the share of flipped preferences, got {value}")
