"""Matryoshka losses: any loss on cut embeddings, and on those of earlier layers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.contracts import LossInputs, Statistics, WrapperLoss, apply, input_names, is_policy, mean_over_lists
from losses.math.masking import above_zero, at_least, at_least_float32, finite, one_of
from losses.math.similarity import COSINE, DOT

SMALLEST_DIM = 32


@dataclass(frozen=True)
class Matryoshka(WrapperLoss):
    """sum_d w_d L(normalize(e[:d]))  (Kusupati et al. 2022, arXiv 2205.13147, eq. 1).

    L is any loss; e[:d] are the first d dimensions of all embeddings, of unit length again unless `normalize` is off
    (for models that compare by dot product). `dims` null: the powers of two from 32 on below the full dimension, and
    the full one, which is trained only where it is among `dims`. `weights` null: 1 each. `n_dims_per_step` of them are
    drawn at each step, keyed by (seed, step), so that all ranks agree; null: all. Logged: `loss/dim_D`, unweighted.

    Use: embeddings that may be cut to fewer dimensions.
    Cost: that of the loss inside, for each dimension drawn.

    Raises:
        ValueError: options that make no sense; at the first step, dims beyond the embeddings', or no embeddings.
    """

    compares_embeddings: ClassVar[bool] = True

    loss: Any
    dims: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None
    n_dims_per_step: int | None = None
    normalize: bool = True

    def __post_init__(self) -> None:
        check_inner(self.loss)
        if self.dims is not None and (min(self.dims, default=0) < 1 or len(set(self.dims)) != len(self.dims)):
            raise ValueError(f"dims={list(self.dims)} must be different integers above 0")
        if self.weights is not None and len(self.weights) != len(self.dims or ()):
            raise ValueError(f"weights={list(self.weights)} must be as many as dims={self.dims and list(self.dims)}")
        for weight in self.weights or ():
            finite("weights", weight)
        if self.n_dims_per_step is not None:
            at_least("n_dims_per_step", self.n_dims_per_step, 1)

    @property
    def losses(self) -> tuple[Any, ...]:
        return (self.loss,)

    def __call__(self, lists: LossInputs) -> tuple[Tensor, Statistics]:
        """The scalar sum, and the loss of each dimension."""
        dim = embeddings(self, lists)[0].shape[-1]
        if max(self.dims or (0,)) > dim:
            raise ValueError(f"loss.dims={list(self.dims or ())}: the embeddings have {dim} dimensions, not more")
        dims = list(self.dims or default_dims(dim))
        weights = dict(zip(dims, self.weights or (1.0,) * len(dims), strict=True))
        total: list[Tensor] = []
        statistics: Statistics = {}
        for size in sorted(draw(dims, self.n_dims_per_step, "dims", lists), reverse=True):
            value, details = apply(self.loss, self.cut(lists, size))
            total.append(weights[size] * value)
            statistics[f"loss/dim_{size}"] = value.detach()
            statistics |= {f"dim_{size}/{name}": statistic for name, statistic in details.items()}
        return torch.stack(total).sum(), statistics

    def cut(self, lists: LossInputs, size: int) -> LossInputs:
        """`lists` with the first `size` dimensions of their embeddings."""
        similarity = COSINE if self.normalize else DOT
        queries, documents = (part[..., :size] for part in embeddings(self, lists))
        documents = documents.masked_fill(~lists.mask.unsqueeze(-1), 0.0)  # lest the gradient read padding
        queries, documents = similarity.comparable(queries), similarity.comparable(documents)
        return replace(lists, queries=queries, documents=documents, similarity=similarity)


@dataclass(frozen=True)
class Matryoshka2D(WrapperLoss):
    """a L(e^N) + mean over sampled layers l < N of [b w_l L(e^l) + c T KL(sg softmax(e^N / T) || softmax(e^l / T))]

    (Li et al. 2024, arXiv 2402.14776; sentence-transformers' Matryoshka2dLoss, where L is Matryoshka.) L is any loss;
    e^N are the embeddings, e^l those of the earlier layer l; a = `last_layer_weight`, b = `prior_layers_weight`,
    c = `kl_div_weight`, T = `kl_temperature`; the softmax is over the dimensions, its divergence the mean over all
    texts (times their lists' `weights`). w_l is 1 (uniform) or 1 / (1 + ln(1 + l)), l from 0 (log: the paper's second
    version). `n_layers_per_step` layers are drawn at each step, keyed by (seed, step); null: all.
    Sentence-transformers sums the divergence over the sampled layers; here it is the mean, as the loss is.
    Logged: `loss/last_layer`, `loss/prior_layers`, `kl`, unweighted.

    Use: embeddings that may be cut and taken from an earlier layer.
    Cost: that of the loss inside, for each layer drawn.
    Source: Li et al. 2024, arXiv 2402.14776; sentence-transformers `Matryoshka2dLoss`.
    """

    compares_embeddings: ClassVar[bool] = True

    loss: Any
    n_layers_per_step: int | None = 1
    last_layer_weight: float = 1.0
    prior_layers_weight: float = 1.0
    kl_div_weight: float = 1.0
    kl_temperature: float = 0.3
    layer_weighting: str = "uniform"

    def __post_init__(self) -> None:
        check_inner(self.loss)
        if self.n_layers_per_step is not None:
            at_least("n_layers_per_step", self.n_layers_per_step, 1)
        for name in ("last_layer_weight", "prior_layers_weight", "kl_div_weight"):
            at_least(name, getattr(self, name), 0.0)
        above_zero("kl_temperature", self.kl_temperature)
        one_of("layer_weighting", self.layer_weighting, ("uniform", "log"))

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

    def __call__(self, lists: LossInputs) -> tuple[Tensor, Statistics]:
        """The scalar sum, and its parts."""
        query_layers, document_layers = lists.query_layers, lists.document_layers
        if query_layers is None or document_layers is None:
            raise ValueError("loss Matryoshka2D needs query_layers, document_layers, which this run does not have")
        if query_layers.shape[-2] == 0:
            raise ValueError("loss Matryoshka2D needs earlier layers: this model has but one")
        last, details = apply(self.loss, lists)
        statistics = {"loss/last_layer": last.detach()}
        statistics |= {f"last_layer/{name}": statistic for name, statistic in details.items()}
        losses, divergences = [], []
        for layer in draw(list(range(query_layers.shape[-2])), self.n_layers_per_step, "layers", lists):
            earlier = replace(lists, queries=query_layers[..., layer, :], documents=document_layers[..., layer, :])
            losses.append(apply(self.loss, earlier)[0] * self.weight_of(layer))
            divergences.append(self.divergence(lists, earlier))
        prior, divergence = torch.stack(losses).mean(), torch.stack(divergences).mean()
        statistics |= {"loss/prior_layers": prior.detach(), "kl": divergence.detach()}
        earlier_terms = self.prior_layers_weight * prior + self.kl_div_weight * self.kl_temperature * divergence
        return self.last_layer_weight * last + earlier_terms, statistics

    def weight_of(self, layer: int) -> float:
        return 1.0 if self.layer_weighting == "uniform" else 1 / (1 + math.log(1 + layer))

    def divergence(self, lists: LossInputs, earlier: LossInputs) -> Tensor:
        """The mean over texts of KL(sg softmax(e^N / T) || softmax(e^l / T))."""
        target, student = (self._texts(one) / self.kl_temperature for one in (lists, earlier))
        terms = F.kl_div(student.log_softmax(-1), target.detach().log_softmax(-1), reduction="none", log_target=True)
        weights = None
        if lists.weights is not None:
            has_document = lists.mask.any(dim=1)
            weights = torch.cat([lists.weights[has_document], lists.weights[lists.mask.nonzero()[:, 0]]])
        return mean_over_lists(terms.sum(-1), torch.ones_like(terms[:, 0], dtype=torch.bool), weights)

    def _texts(self, lists: LossInputs) -> Tensor:
        """The queries of lists that have a document, then all documents: [texts, dim]."""
        queries, documents = embeddings(self, lists)
        return at_least_float32(torch.cat([queries[lists.mask.any(dim=1)], documents[lists.mask]]))


def check_inner(loss: Any) -> None:
    if not hasattr(loss, "contract") or is_policy(loss):
        raise ValueError(f"loss={type(loss).__name__} is not a loss of lists or embeddings: choose one of conf/loss")
    if "query_layers" in input_names(loss):
        raise ValueError("loss.loss=Matryoshka2D reads layers, which are not cut: put Matryoshka inside it instead")


def embeddings(loss: WrapperLoss, lists: LossInputs) -> tuple[Tensor, Tensor]:
    """[Q, dim] and [Q, n, dim]"""
    if lists.queries is None or lists.documents is None:
        raise ValueError(f"loss {type(loss).__name__} is of embeddings: it needs a bi-encoder, model=bi_encoder")
    return lists.queries, lists.documents


def default_dims(dim: int) -> tuple[int, ...]:
    """
    >>> default_dims(384)
    (32, 64, 128, 256, 384)
    """
    powers = (2**exponent for exponent in range(SMALLEST_DIM.bit_length() - 1, dim.bit_length()))
    return (*(power for power in powers if power < dim), dim)


def draw(choices: list[int], number: int | None, what: str, lists: LossInputs) -> list[int]:
    """`number` of the choices without replacement, the same for one (seed, step) everywhere; None: all of them."""
    if number is None or number >= len(choices):
        return choices
    return random.Random(f"matryoshka {what} {lists.seed} {lists.step}").sample(choices, number)
