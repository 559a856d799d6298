"""The three contracts of a loss: what it is called with, what it needs of the data, and how a trainer calls it.

| contract | called with | examples |
|---|---|---|
| list | `loss(scores, labels, mask)`, the last axis is the candidate list | LambdaRank, DPO, KL distillation |
| matrix | `loss(queries, documents, labels, mask)`, embeddings of the whole batch | InfoNCE, SigLIP, CoSENT |
| wrapper | `loss(lists)`, the whole of `LossInputs`, for the losses that it holds | Matryoshka, weighted sums |

Further inputs come by keyword: those that the loss names in `inputs`, fields of `LossInputs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from losses.math.similarity import DOT, Similarity

Statistics = dict[str, Tensor]

# What the data gives, as `data_requirements` of a loss and `available` of a collection name it.
REQUIREMENTS = {
    "positive": "lists with a relevant document (label above 0)",
    "comparison": "lists with two documents of different labels",
    "labels": "relevant and other documents, not necessarily in one list",
    "several": "lists of two or more documents",
    "teacher_scores": "a teacher's score for every document",
}

# What a model gives per row, as `required_outputs` of a loss and `outputs` of a model name it.
OUTPUTS = {
    "score": "a score of each (query, document) pair",
    "embedding": "an embedding of each text",
    "layers": "the embeddings of the earlier layers",
    "logsumexp": "a vocabulary, over which an answer has a probability",
}

# The fields of `LossInputs` that only one output can fill.
OUTPUT_OF_INPUT = {
    "logsumexp": "logsumexp",
    "query_layers": "layers",
    "document_layers": "layers",
    "queries": "embedding",
    "documents": "embedding",
}


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """A global step as losses see it: Q candidate lists, padded to n documents.

    A cross-encoder gives `scores`, a bi-encoder `queries` and `documents`, which `similarity` compares as they are (a
    model that compares by cosine gives them unit length). Whatever stands at padding is ignored.
    """

    labels: Tensor  # [Q, n] relevance, 0 = not relevant
    mask: Tensor  # [Q, n] bool, False at padding
    scores: Tensor | None = None  # [Q, n]
    logsumexp: Tensor | None = None  # [Q, n] of the logits of an LLM's whole vocabulary, less that of its "no"
    queries: Tensor | None = None  # [Q, dim]
    documents: Tensor | None = None  # [Q, n, dim]
    similarity: Similarity = DOT  # how queries and documents are compared: the model's own
    query_layers: Tensor | None = None  # [Q, layers, dim] embeddings of the earlier layers, first to last but one
    document_layers: Tensor | None = None  # [Q, n, layers, dim]
    query_hashes: Tensor | None = None  # [Q] int64, equal for equal texts
    document_hashes: Tensor | None = None  # [Q, n] int64
    weights: Tensor | None = None  # [Q] weight of each list; None: 1
    teacher_scores: Tensor | None = None  # [Q, n], NaN if a document has none
    reference_scores: Tensor | None = None  # [Q, n] of the frozen model that training started from
    reference_logsumexp: Tensor | None = None  # [Q, n] likewise
    guide_queries: Tensor | None = None  # [Q, any] embeddings of a guide model (GIST)
    guide_documents: Tensor | None = None  # [Q, n, any]
    scale: Tensor | None = None  # scalar: 1 / temperature that belongs to the model, learned or fixed
    bias: Tensor | None = None  # scalar: learned with it (SigLIP)
    step: int = 0  # of the optimizer, from 1
    progress: float = 0.0  # share of the training done, 0 to 1
    seed: int = 0  # draws inside a loss are keyed by (seed, step): the same on every rank

    def list_scores(self) -> Tensor:
        """[Q, n]: `scores`, or the similarities of each query with its own documents, times `scale`."""
        if self.scores is not None:
            return self.scores
        assert self.queries is not None
        assert self.documents is not None
        documents = self.documents.masked_fill(~self.mask.unsqueeze(-1), 0.0)
        similarities = self.similarity.pairs(self.queries, documents)
        return similarities if self.scale is None else similarities * self.scale


class Loss(ABC):
    """What every loss says of itself. Subclasses are frozen dataclasses that hold the options."""

    contract: ClassVar[str]
    compares_embeddings: ClassVar[bool] = False  # scores alone (a cross-encoder's) are not enough
    samples_actions: ClassVar[bool] = False  # a policy: it has `sample`, and is trained by trainer=grpo

    @property
    def data_requirements(self) -> tuple[str, ...]:
        """What of the data the loss needs, names of REQUIREMENTS: a ClassVar, or a property of the options."""
        return ("comparison",)

    @property
    def in_batch_negatives(self) -> bool:
        """Whether documents of other lists are a query's negatives."""
        return False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Fields of `LossInputs` that `__call__` takes by keyword, beside those of the contract."""
        return ()

    # Exemptions from what tests/losses/test_properties.py asks. A loss that needs one sets it, with the reason: as a
    # ClassVar, or as a property where it depends on the options.

    @property
    def shift_invariant(self) -> bool:
        """False: the level of a list's scores matters, not their differences alone. True: a cross-encoder's level is
        not trained."""
        return True

    @property
    def depends_on_other_lists(self) -> bool:
        """True: a list's gradient depends on the other lists beyond a common factor."""
        return False

    @property
    def saturates(self) -> bool:
        """True: a document's gradient vanishes in float32 at a misordering of 30."""
        return False

    @property
    def masks_misordered(self) -> bool:
        """True: a negative far above the positive is taken for a relevant document, and has no gradient."""
        return False

    @property
    def differentiable(self) -> bool:
        """False: by stopped or straight-through gradients, the gradient is not the derivative of the value."""
        return True


class ListLoss(Loss):
    """A loss of each candidate list by itself; the mean over the valid lists of the global step."""

    contract: ClassVar[str] = "list"

    @abstractmethod
    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels, mask and inputs [..., n] -> the loss of each list [...] and whether it counts [...] bool.

        A list that does not count (empty, or without what the loss compares) has any *finite* value.
        """

    def __call__(
        self, scores: Tensor, labels: Tensor, mask: Tensor, *, weights: Tensor | None = None, **inputs: Tensor
    ) -> Tensor:
        """scores, labels, mask [..., n], weights [...] -> scalar."""
        return mean_over_lists(*self.per_list(scores, labels, mask, **inputs), weights)


class MatrixLoss(Loss):
    """A loss of the embeddings of a whole batch, in which each list's documents may be another's negatives.

    One that compares by whatever similarity the model has names "similarity" among its `inputs`.
    """

    contract: ClassVar[str] = "matrix"
    compares_embeddings: ClassVar[bool] = True
    depends_on_other_lists: ClassVar[bool] = True

    @property
    def data_requirements(self) -> tuple[str, ...]:
        return ("positive",)

    @abstractmethod
    def __call__(
        self,
        queries: Tensor,
        documents: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        weights: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """queries [Q, dim], documents [Q, n, dim], labels and mask [Q, n], weights [Q] -> scalar."""


class WrapperLoss(Loss):
    """A loss made of other losses, of any contract; `data_requirements` and `inputs` are theirs."""

    contract: ClassVar[str] = "wrapper"

    @property
    @abstractmethod
    def losses(self) -> tuple[Any, ...]:
        """The losses inside."""

    @abstractmethod
    def __call__(self, lists: LossInputs) -> tuple[Tensor, Statistics]:
        """The scalar loss, and its terms by name."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for loss in self.losses for name in input_names(loss)))


def apply(loss: Any, lists: LossInputs) -> tuple[Tensor, Statistics]:
    """Call a loss of any contract with what it asks for; the scalar, and detached statistics by name.

    Raises ValueError if an input that it reads is not there.
    """
    if loss.contract == "wrapper":
        return loss(lists)
    inputs = inputs_for(loss, lists)
    if lists.weights is not None:
        inputs["weights"] = lists.weights
    if loss.contract == "list":
        result = loss(lists.list_scores(), lists.labels, lists.mask, **inputs)
    else:
        result = loss(lists.queries, lists.documents, lists.labels, lists.mask, **inputs)
    return result if isinstance(result, tuple) else (result, {})


def inputs_for(loss: Any, lists: LossInputs) -> dict[str, Any]:
    """What a loss reads, by name. Raises ValueError if one is not there."""
    inputs = {name: getattr(lists, name) for name in input_names(loss)}
    if missing := [name for name, value in inputs.items() if value is None]:
        raise ValueError(f"loss {type(loss).__name__} needs {', '.join(missing)}, which this run does not have")
    return inputs


def input_names(loss: Any) -> tuple[str, ...]:
    """`loss.inputs`, empty for a loss of the user's that says nothing."""
    return tuple(getattr(loss, "inputs", ()))


def all_losses(loss: Any) -> list[Any]:
    """A loss and those inside it."""
    return [loss, *(each for inner in getattr(loss, "losses", ()) for each in all_losses(inner))]


def compares_embeddings(loss: Any) -> bool:
    """Whether scores alone are not enough for a loss or one inside it."""
    return any(getattr(each, "compares_embeddings", False) for each in all_losses(loss))


def is_policy(loss: Any) -> bool:
    """Whether a loss samples actions from the scores and rewards them: it has `sample`, and trainer=grpo trains it."""
    return getattr(loss, "samples_actions", False)


def required_outputs(loss: Any) -> frozenset[str]:
    """The outputs that a model must give for a loss and those inside it, names of OUTPUTS. Empty: any model will do,
    since every one gives scores, or embeddings whose similarities are the scores."""
    of_inputs = {OUTPUT_OF_INPUT[name] for name in input_names(loss) if name in OUTPUT_OF_INPUT}
    return frozenset(of_inputs | ({"embedding"} if compares_embeddings(loss) else set()))


def has_in_batch_negatives(loss: Any) -> bool:
    """Whether documents of other lists are negatives of a query, for a loss or one inside it: there copies matter."""
    return any(getattr(each, "in_batch_negatives", False) for each in all_losses(loss))


def is_shift_invariant(loss: Any) -> bool:
    """Whether the level of a list's scores means nothing to a loss and those inside it, only their differences."""
    return all(getattr(each, "shift_invariant", False) for each in all_losses(loss))


def requirements(loss: Any) -> frozenset[str]:
    """What a loss and those inside it require of the data."""
    own = frozenset() if loss.contract == "wrapper" else frozenset(getattr(loss, "data_requirements", ("comparison",)))
    return own.union(*(requirements(inner) for inner in getattr(loss, "losses", ())))


class MissingRequirements(ValueError):
    """A loss requires what the training lists of a data set do not give."""

    def __init__(self, loss: Any, available: Collection[str], data: str, *, outputs: Collection[str]):
        """`available`: what the lists give; `outputs`: what the model gives."""
        missing = [f"{need} ({REQUIREMENTS[need]})" for need in missing_requirements(loss, available)]
        super().__init__(
            f"loss {type(loss).__name__} does not fit data {data}, whose training lists lack {' and '.join(missing)}"
        )
        self.available = frozenset(available)
        self.outputs = frozenset(outputs)


def missing_requirements(loss: Any, available: Collection[str]) -> list[str]:
    """What `loss` requires and the data does not give, names of REQUIREMENTS."""
    required = requirements(loss)
    return [need for need in REQUIREMENTS if need in required and need not in available]


def mean_over_lists(values: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum of weight * value over valid lists / their number; 0 with a zero gradient where none is valid.

    The number, not the sum of the weights: a batch of light lists makes a light step, and a list's gradient does not
    depend on the others' weights.

    Args:
        values: [...] finite loss per list.
        valid: [...] bool, whether the list counts.
        weights: [...] or None for 1.
    """
    weighted = values if weights is None else values * weights.to(values.dtype)
    return weighted.where(valid, torch.zeros_like(weighted)).sum() / valid.sum().clamp(min=1)
