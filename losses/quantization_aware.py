"""Quantisation-aware training: any loss on embeddings as they are stored and searched, in int8 and as signs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from losses.contracts import LossInputs, Statistics, WrapperLoss, all_losses, compute_loss
from losses.math.checks import check_finite, check_one_of
from losses.math.masking import at_least_float32
from losses.math.quantization import int8_values, ranges_of, signs
from losses.math.share import ALONE, Share
from losses.matryoshka import Matryoshka, Matryoshka2D, check_inner_loss, require_embeddings

PRECISIONS = ("fp32", "int8", "binary")


@dataclass(frozen=True)
class QuantizationAware(WrapperLoss):
    """sum_p w_p L(e + sg(Q_p(e) - e))  (Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877).

    L is any loss, sg stops the gradient: the value is that of quantised embeddings, the gradient passes straight
    through to e. Documents e are quantised, as they are stored; queries stay as they are, as in a search by float
    queries, unless `quantize_queries` (a search by Hamming distance, or of int8 by int8). Q_p by precision:

    - fp32: e itself.
    - int8: 255 steps between the lowest and the highest value of each dimension, rounded down, exactly as
      `launch/encode.py` and sentence-transformers' `quantize_embeddings` store it. The ranges are those of all
      documents of the training so far (`int8_ranges`: running minima and maxima, kept with the model and exported);
      without them, those of the documents of the step.
    - binary: m sign(e) / sqrt(d), with sign(0) = -1 as in packed bits and m the mean length of the documents (of the
      queries, for queries) of the step: under cosine 1. So a temperature means the same in every precision; a factor
      that all documents share changes no ranking.

    `weights` null: 1 each. Inside Matryoshka, embeddings are cut, scaled to unit length and then quantised, as
    `encode.dim` does; Matryoshka inside is refused. Logged: `loss/PRECISION`, unweighted.

    Use: embeddings that are stored as int8 or as bits.
    Cost: that of the loss inside, for each precision.

    Raises:
        ValueError: options without a meaning, or Matryoshka inside; at the first step, no embeddings.
    """

    compares_embeddings: ClassVar[bool] = True
    reads_one_vector: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True
    sharded: ClassVar[bool] = True

    loss: Any
    precisions: tuple[str, ...] = PRECISIONS
    weights: tuple[float, ...] | None = None
    quantize_queries: bool = False

    def __post_init__(self) -> None:
        for one in all_losses(self.loss):
            if isinstance(one, Matryoshka | Matryoshka2D | QuantizationAware):
                raise ValueError(
                    f"loss.loss={type(one).__name__} cannot be inside: embeddings are cut first and then quantised, "
                    "once: loss=matryoshka loss@loss.loss=quantization_aware"
                )
        check_inner_loss(self.loss)
        if not self.precisions or len(set(self.precisions)) != len(self.precisions):
            raise ValueError(f"precisions={list(self.precisions)} must be different ones of {', '.join(PRECISIONS)}")
        for precision in self.precisions:
            check_one_of("precisions", precision, PRECISIONS)
        if self.weights is not None and len(self.weights) != len(self.precisions):
            raise ValueError(
                f"weights={list(self.weights)} must have one value for each of precisions={list(self.precisions)}"
            )
        for weight in self.weights or ():
            check_finite("weights", weight)

    @property
    def losses(self) -> tuple[Any, ...]:
        return (self.loss,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*super().inputs, *(("int8_ranges",) if self.reads_ranges else ()))

    @property
    def reads_ranges(self) -> bool:
        """Whether it quantises to int8."""
        return "int8" in self.precisions

    @property
    def differentiable(self) -> bool:
        """False: the gradient passes straight through the quantiser, which is a step function."""
        return self.precisions == ("fp32",)

    def __call__(self, loss_inputs: LossInputs) -> tuple[Tensor, Statistics]:
        """Return the scalar sum, and the loss of each precision."""
        total: list[Tensor] = []
        statistics: Statistics = {}
        weights = self.weights or (1.0,) * len(self.precisions)
        for precision, weight in zip(self.precisions, weights, strict=True):
            value, details = compute_loss(self.loss, self.quantize(loss_inputs, precision))
            total.append(weight * value)
            statistics[f"loss/{precision}"] = value.detach()
            statistics |= {f"{precision}/{name}": statistic for name, statistic in details.items()}
        return torch.stack(total).sum(), statistics

    def quantize(self, loss_inputs: LossInputs, precision: str) -> LossInputs:
        """Return the inputs with quantised documents, and queries if they are quantised too."""
        queries, documents = require_embeddings(self, loss_inputs)
        if precision == "fp32":
            return loss_inputs
        mask = loss_inputs.mask
        documents = documents.masked_fill(~mask.unsqueeze(-1), 0.0)  # keeps padding out of the gradient
        if precision == "int8":
            ranges = (loss_inputs.int8_ranges or {}).get(documents.shape[-1])
            ranges = ranges_of(documents, mask, loss_inputs.share) if ranges is None else ranges
            codes = int8_values(documents, ranges)
            query_codes = int8_values(queries, ranges)
        else:
            codes = scaled_signs(documents, mask, loss_inputs.share)
            query_codes = scaled_signs(queries, mask.any(dim=1), loss_inputs.share)
        documents = straight_through(documents, codes.masked_fill(~mask.unsqueeze(-1), 0.0))
        queries = straight_through(queries, query_codes) if self.quantize_queries else queries
        return replace(loss_inputs, queries=queries, documents=documents)


def scaled_signs(vectors: Tensor, mask: Tensor, share: Share = ALONE) -> Tensor:
    """The signs of vectors [..., dim], times the mean length of those of all ranks where `mask` [...] is True, over
    sqrt(dim)."""
    found = signs(vectors)
    lengths = at_least_float32(vectors.detach()).norm(dim=-1).masked_fill(~mask, 0.0)
    length = share.fraction(lengths.sum(), mask.sum())
    return found * (length / found.shape[-1] ** 0.5)


def straight_through(vectors: Tensor, values: Tensor) -> Tensor:
    """Return `values`, with the gradient of `vectors`."""
    vectors = at_least_float32(vectors)
    return values + (vectors - vectors.detach())


def quantizes_embeddings(loss: Any) -> bool:
    """Whether a loss, or one inside it, rounds all values of embeddings."""
    return any(getattr(each, "quantizes", False) for each in all_losses(loss))


def int8_dimensions(loss: Any, dim: int) -> tuple[int, ...]:
    """The numbers of dimensions that embeddings of `dim` have where a loss, or one inside it, quantises them to int8:
    several inside Matryoshka."""
    if getattr(loss, "reads_ranges", False):
        return (dim,)
    sizes = getattr(loss, "dimensions", lambda whole: (whole,))(dim)
    inner = [size for each in getattr(loss, "losses", ()) for own in sizes for size in int8_dimensions(each, own)]
    return tuple(dict.fromkeys(inner))
