"""Matryoshka losses: any loss on truncated embeddings, and on the embeddings of earlier layers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.contracts import (
    LossInputs,
    Statistics,
    WrapperLoss,
    all_losses,
    compute_loss,
    input_names,
    is_policy,
    reads_projection,
)
from losses.math.checks import check_at_least, check_finite, check_one_of, check_positive
from losses.math.masking import at_least_float32, without_padding
from losses.math.share import mean_over_lists

SMALLEST_DIM = 32


@dataclass(frozen=True)
class Matryoshka(WrapperLoss):
    """sum_d w_d L(normalize(e[:d]))  (Kusupati et al. 2022, arXiv 2205.13147, eq. 1).

    L is any loss. e[:d] are the first d dimensions of all embeddings, scaled to unit length unless `normalize` is off
    (for models that compare by dot product). `dims` null: the powers of two from 32 on that are below the full
    dimension, and the full dimension. If `dims` are given, the full dimension is trained only if it is among them.
    `weights` null: 1 each. `n_dims_per_step` of the dims are drawn at random at each step, from (seed, step) so that
    all ranks agree; null: all. Logged: `loss/dim_D`, unweighted.

    Use: embeddings that can be truncated to fewer dimensions.
    Cost: that of the loss inside, for each dimension drawn.

    Raises:
        ValueError: options without a meaning; at the first step, dims larger than the embeddings', or no embeddings.
    """

    compares_embeddings: ClassVar[bool] = True
    cuts_embeddings: ClassVar[bool] = True
    sharded: ClassVar[bool] = True

    loss: Any
    dims: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None
    n_dims_per_step: int | None = None
    normalize: bool = True

    def __post_init__(self) -> None:
        check_inner_loss(self.loss)
        if self.dims is not None and (min(self.dims, default=0) < 1 or len(set(self.dims)) != len(self.dims)):
            raise ValueError(f"dims={list(self.dims)} must be different integers above 0")
        if self.weights is not None and len(self.weights) != len(self.dims or ()):
            raise ValueError(
                f"weights={list(self.weights)} must have one value for each of dims={self.dims and list(self.dims)}"
            )
        for weight in self.weights or ():
            check_finite("weights", weight)
        if self.n_dims_per_step is not None:
            check_at_least("n_dims_per_step", self.n_dims_per_step, 1)

    @property
    def largest_dimension(self) -> int:
        return max(self.dims or (0,))

    def dimensions(self, dim: int) -> tuple[int, ...]:
        """The numbers of dimensions that embeddings of `dim` are cut to."""
        return self.dims or default_dims(dim)

    @property
    def normalizes(self) -> bool:
        return self.normalize

    @property
    def losses(self) -> tuple[Any, ...]:
        return (self.loss,)

    def __call__(self, loss_inputs: LossInputs) -> tuple[Tensor, Statistics]:
        """Return the scalar sum, and the loss of each dimension."""
        dim = require_embeddings(self, loss_inputs)[0].shape[-1]
        if self.largest_dimension > dim:
            raise ValueError(
                f"loss.dims={list(self.dims or ())}: the embeddings have only {dim} dimensions; choose dims up to {dim}"
            )
        dims = list(self.dimensions(dim))
        weights = dict(zip(dims, self.weights or (1.0,) * len(dims), strict=True))
        total: list[Tensor] = []
        statistics: Statistics = {}
        for size in sorted(sample_subset(dims, self.n_dims_per_step, "dims", loss_inputs), reverse=True):
            value, details = compute_loss(self.loss, self.truncate(loss_inputs, size))
            total.append(weights[size] * value)
            statistics[f"loss/dim_{size}"] = value.detach()
            statistics |= {f"dim_{size}/{name}": statistic for name, statistic in details.items()}
        return torch.stack(total).sum(), statistics

    def truncate(self, loss_inputs: LossInputs, size: int) -> LossInputs:
        """Return the inputs with the first `size` dimensions of their embeddings."""
        similarity = loss_inputs.similarity.of_cut(normalize=self.normalize)
        queries, documents = require_embeddings(self, loss_inputs)
        documents = without_padding(documents, loss_inputs.mask)  # keeps padding out of the gradient
        queries, documents = similarity.comparable(queries, size), similarity.comparable(documents, size)
        return replace(loss_inputs, queries=queries, documents=documents, similarity=similarity)


@dataclass(frozen=True)
class Matryoshka2D(WrapperLoss):
    """a L(e^N) + mean over sampled layers l < N of [b w_l L(e^l) + c T KL(sg softmax(e^N / T) || softmax(e^l / T))]

    (Li et al. 2024, arXiv 2402.14776; sentence-transformers' Matryoshka2dLoss, in which L is Matryoshka.) L is any
    loss. e^N are the embeddings, e^l those of the earlier layer l; a = `last_layer_weight`, b = `prior_layers_weight`,
    c = `kl_div_weight`, T = `kl_temperature`. The softmax is over the dimensions, and the divergence is the mean over
    all texts (times their lists' `weights`). w_l is 1 (uniform) or 1 / (1 + ln(1 + l)), l from 0 (log: the paper's
    second version). `n_layers_per_step` layers are drawn at random at each step, from (seed, step); null: all.
    Sentence-transformers sums the divergence over the sampled layers; here it is the mean, like the loss. Logged:
    `loss/last_layer`, `loss/prior_layers`, `kl`, unweighted.

    Use: embeddings that can be truncated, and taken from an earlier layer.
    Cost: that of the loss inside, for each layer drawn.
    Source: Li et al. 2024, arXiv 2402.14776; sentence-transformers `Matryoshka2dLoss`.

    Raises:
        ValueError: options without a meaning; at the first step, no embeddings, or a model without earlier layers.
    """

    compares_embeddings: ClassVar[bool] = True
    sharded: ClassVar[bool] = True

    loss: Any
    n_layers_per_step: int | None = 1
    last_layer_weight: float = 1.0
    prior_layers_weight: float = 1.0
    kl_div_weight: float = 1.0
    kl_temperature: float = 0.3
    layer_weighting: str = "uniform"

    def __post_init__(self) -> None:
        check_inner_loss(self.loss)
        if self.n_layers_per_step is not None:
            check_at_least("n_layers_per_step", self.n_layers_per_step, 1)
        for name in ("last_layer_weight", "prior_layers_weight", "kl_div_weight"):
            check_at_least(name, getattr(self, name), 0.0)
        check_positive("kl_temperature", self.kl_temperature)
        check_one_of("layer_weighting", self.layer_weighting, ("uniform", "log"))

    @property
    def losses(self) -> tuple[Any, ...]:
        return (self.loss,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*super().inputs, "query_layers", "document_layers")

    @property
    def differentiable(self) -> bool:
        """False: the last layer is a constant target of the others."""
        return self.kl_div_weight == 0

    def __call__(self, loss_inputs: LossInputs) -> tuple[Tensor, Statistics]:
        """Return the scalar sum, and its parts."""
        query_layers, document_layers = loss_inputs.query_layers, loss_inputs.document_layers
        if query_layers is None or document_layers is None:
            raise ValueError("loss Matryoshka2D needs query_layers, document_layers, which this run does not have")
        if query_layers.shape[-2] == 0:
            raise ValueError("loss Matryoshka2D needs earlier layers, and this model has only one: use loss=matryoshka")
        last, details = compute_loss(self.loss, loss_inputs)
        statistics = {"loss/last_layer": last.detach()}
        statistics |= {f"last_layer/{name}": statistic for name, statistic in details.items()}
        losses, divergences = [], []
        for layer in sample_subset(list(range(query_layers.shape[-2])), self.n_layers_per_step, "layers", loss_inputs):
            earlier = replace(  # the ranges are those of the last layer
                loss_inputs,
                queries=query_layers[..., layer, :],
                documents=document_layers[..., layer, :],
                int8_ranges=None,
            )
            losses.append(compute_loss(self.loss, earlier)[0] * self.layer_weight(layer))
            divergences.append(self.divergence(loss_inputs, earlier))
        prior, divergence = torch.stack(losses).mean(), torch.stack(divergences).mean()
        statistics |= {"loss/prior_layers": prior.detach(), "kl": divergence.detach()}
        earlier_terms = self.prior_layers_weight * prior + self.kl_div_weight * self.kl_temperature * divergence
        return self.last_layer_weight * last + earlier_terms, statistics

    def layer_weight(self, layer: int) -> float:
        return 1.0 if self.layer_weighting == "uniform" else 1 / (1 + math.log(1 + layer))

    def divergence(self, loss_inputs: LossInputs, earlier: LossInputs) -> Tensor:
        """Return the mean over texts of KL(sg softmax(e^N / T) || softmax(e^l / T))."""
        target, student = (self._texts(inputs) / self.kl_temperature for inputs in (loss_inputs, earlier))
        terms = F.kl_div(student.log_softmax(-1), target.detach().log_softmax(-1), reduction="none", log_target=True)
        # A list of padding only has no query either.
        counted = torch.cat([loss_inputs.mask.any(dim=1, keepdim=True), loss_inputs.mask], dim=1)
        weights = loss_inputs.weights
        of_texts = None if weights is None else weights.unsqueeze(1).expand_as(counted)
        return mean_over_lists(terms.sum(-1), counted, of_texts, loss_inputs.share)

    def _texts(self, loss_inputs: LossInputs) -> Tensor:
        """Return the query of each list, then its documents, zeros at padding: [Q, 1 + n, dim]."""
        queries, documents = require_embeddings(self, loss_inputs)
        documents = without_padding(documents, loss_inputs.mask)
        return at_least_float32(torch.cat([queries.unsqueeze(1), documents], dim=1))


def check_inner_loss(loss: Any) -> None:
    """Raise ValueError if a Matryoshka loss cannot contain `loss`."""
    if not hasattr(loss, "contract") or is_policy(loss):
        raise ValueError(f"loss={type(loss).__name__} is not a loss of lists or embeddings: choose one of conf/loss")
    if "query_layers" in input_names(loss):
        raise ValueError(
            "loss.loss=Matryoshka2D reads layers, which are not truncated: put Matryoshka inside it instead"
        )
    if reads_projection(loss):
        raise ValueError(
            "loss.loss=EmbeddingDistillation compares whole embeddings, of the teacher's dimension: set "
            "loss.loss.target=similarities"
        )


def require_embeddings(loss: WrapperLoss, loss_inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """Return the embeddings of queries [Q, dim] and documents [Q, n, dim]. Raises ValueError if there are none."""
    if loss_inputs.queries is None or loss_inputs.documents is None:
        raise ValueError(f"loss {type(loss).__name__} needs embeddings: choose a bi-encoder, such as model=bi_encoder")
    return loss_inputs.queries, loss_inputs.documents


def default_dims(dim: int) -> tuple[int, ...]:
    """Return the powers of two from 32 on that are below `dim`, and `dim`.

    >>> default_dims(384)
    (32, 64, 128, 256, 384)
    """
    powers = (2**exponent for exponent in range(SMALLEST_DIM.bit_length() - 1, dim.bit_length()))
    return (*(power for power in powers if power < dim), dim)


def sample_subset(choices: list[int], number: int | None, name: str, loss_inputs: LossInputs) -> list[int]:
    """Draw `number` of the choices without replacement, the same on all ranks for one (seed, step); None: all."""
    if number is None or number >= len(choices):
        return choices
    return random.Random(f"matryoshka {name} {loss_inputs.seed} {loss_inputs.step}").sample(choices, number)


def cuts_embeddings(loss: Any) -> bool:
    """Whether a loss, or one inside it, reads the first dimensions of embeddings alone."""
    return any(getattr(each, "cuts_embeddings", False) for each in all_losses(loss))
