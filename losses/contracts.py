"""The three contracts of a loss: its arguments, what it needs of the data, and how a trainer calls it.

| contract | called with | examples |
|---|---|---|
| list | `loss(scores, labels, mask)`; the last axis is the candidate list | LambdaRank, DPO, KL distillation |
| matrix | `loss(queries, documents, labels, mask)`, embeddings of the whole batch | InfoNCE, SigLIP, CoSENT |
| wrapper | `loss(loss_inputs)`, all of `LossInputs`, passed on to the losses inside | Matryoshka, weighted sums |

Further inputs are passed by keyword: the fields of `LossInputs` that the loss names in `inputs`, and of those in
`optional_inputs` the ones that the run has. docs/losses.md lists them ("Further inputs").

On several ranks a loss that is `sharded` computes the terms of a rank's own lists, and gets `share` to make the whole
of them (losses/math/share.py). Any other loss gets the lists of all ranks, and every rank computes all of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from losses.inputs import LossInputs, Statistics
from losses.math.share import ALONE, Share, mean_over_lists

# What a loss may need of the data. `data_requirements` of a loss and `available` of a collection use these names.
REQUIREMENTS = {
    "positive": "lists with a relevant document (label above 0)",
    "relevance": "lists with a relevant document (label above 0) and another one (label 0)",
    "comparison": "lists with two documents of different labels",
    "labels": "relevant and other documents, not necessarily in one list",
    "levels": "labels of two or more levels, not necessarily in one list",
    "unit_labels": "labels of two or more levels from 0 to 1: divide larger ones by their maximum N "
    "(loss.largest_label=N)",
    "several": "lists of two or more documents",
    "teacher_scores": "a teacher's score for every document",
}

# What a model may output per row. `required_outputs` of a loss and `outputs` of a model use these names.
OUTPUTS = {
    "score": "a score of each (query, document) pair",
    "embedding": "an embedding of each text",
    "layers": "the embeddings of the earlier layers",
    "logsumexp": "a vocabulary, over which an answer has a probability",
}

# The fields of `LossInputs` that need a particular model output.
OUTPUT_OF_INPUT = {
    "logsumexp": "logsumexp",
    "query_layers": "layers",
    "document_layers": "layers",
    "queries": "embedding",
    "documents": "embedding",
}


class Loss(ABC):
    """What every loss declares. Subclasses are frozen dataclasses that hold the options."""

    contract: ClassVar[str]
    compares_embeddings: ClassVar[bool] = False  # True: scores alone (a cross-encoder's) are not enough
    cuts_embeddings: ClassVar[bool] = False  # True: it reads the first dimensions of embeddings alone
    quantizes: ClassVar[bool] = False  # True: it rounds all values of embeddings, as they are stored
    samples_actions: ClassVar[bool] = False  # True: a policy, which has `sample` and is trained by trainer=grpo
    gives_probabilities: ClassVar[bool] = False  # True: it makes the sigmoid of a score a probability
    # Whether `__call__` computes the part of one rank and takes `share`: it is set where `__call__` is defined.
    sharded: ClassVar[bool] = False

    temperature: float | None = 1.0  # scores are divided by it; None: the model's temperature is used

    @property
    def data_requirements(self) -> tuple[str, ...]:
        """What the loss needs of the data, names of REQUIREMENTS. Set it as a ClassVar, or override the property."""
        return ("comparison",)

    @property
    def in_batch_negatives(self) -> bool:
        """Whether documents of other lists are a query's negatives."""
        return False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The fields of `LossInputs` that `__call__` takes by keyword, in addition to those of the contract."""
        return ()

    @property
    def optional_inputs(self) -> tuple[str, ...]:
        """The fields of `LossInputs` that `__call__` takes by keyword if they are not None."""
        return ()

    @property
    def largest_dimension(self) -> int:
        """How many dimensions the embeddings must have at least."""
        return 0

    @property
    def normalizes(self) -> bool:
        """Whether it brings embeddings to unit length, whatever the model's similarity."""
        return False

    @property
    def reads_one_vector(self) -> bool:
        """Whether it reads the values of embeddings, so that each must be one vector; else it only compares them by the
        model's similarity. If other options lift that, the property `many_vectors_remedy` says which."""
        return self.contract == "matrix" and "similarity" not in self.inputs

    # Exemptions from the properties that tests/losses/test_properties.py checks. A loss that needs one sets it and
    # gives the reason: as a ClassVar, or as a property if it depends on the options.

    @property
    def shift_invariant(self) -> bool:
        """Whether adding a constant to all scores of a list changes nothing. If so, a cross-encoder's bias is not
        trained."""
        return True

    @property
    def depends_on_other_lists(self) -> bool:
        """Whether the other lists change a list's gradient by more than a common factor. Then every rank computes a
        list loss of the scores of all."""
        return False

    @property
    def saturates(self) -> bool:
        """Whether a document's gradient vanishes in float32 if a negative scores 30 above the positive."""
        return False

    @property
    def masks_misordered(self) -> bool:
        """Whether a negative far above the positive counts as relevant, and so has no gradient."""
        return False

    @property
    def differentiable(self) -> bool:
        """Whether the gradient is the derivative of the value: no stopped or straight-through gradients."""
        return True


class ListLoss(Loss):
    """A loss computed for each candidate list alone; the mean over the valid lists of the global step."""

    contract: ClassVar[str] = "list"

    @abstractmethod
    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """scores, labels, mask and inputs [..., n] -> the loss of each list [...] and whether it is valid [...] bool.

        A list that is not valid (empty, or without anything to compare) may have any *finite* value and gradient; a
        rank whose lists are fewer than others' has empty ones.
        """

    @property
    def sharded(self) -> bool:  # type: ignore[override]
        """Whether a rank computes its own lists alone."""
        return not self.depends_on_other_lists

    def __call__(
        self,
        scores: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        weights: Tensor | None = None,
        share: Share = ALONE,
        **inputs: Tensor,
    ) -> Tensor:
        """scores, labels, mask [..., n], weights [...] -> scalar."""
        found = self.per_list(scores, labels, mask, **inputs)
        if not isinstance(found, tuple) or [getattr(part, "shape", None) for part in found] != [mask.shape[:-1]] * 2:
            raise ValueError(
                f"loss {type(self).__name__}: per_list returns two tensors of the shape {list(mask.shape[:-1])}, the "
                "loss of each list and whether it is valid (bool)"
            )
        return mean_over_lists(*found, weights, share)


class MatrixLoss(Loss):
    """A loss of the embeddings of a whole batch: documents of one list may be negatives of another.

    A loss that supports any similarity names "similarity" in its `inputs`. One that is `sharded` gets the lists of a
    rank and its `share`; `losses.math.in_batch.InBatch` compares them with the texts of all ranks.
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
    """A loss made of other losses of any contract. Its data requirements and `inputs` are those of these losses."""

    contract: ClassVar[str] = "wrapper"

    @property
    @abstractmethod
    def losses(self) -> tuple[Any, ...]:
        """The losses inside."""

    @abstractmethod
    def __call__(self, loss_inputs: LossInputs) -> tuple[Tensor, Statistics]:
        """Return the scalar loss, and its terms by name."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for loss in self.losses for name in input_names(loss)))


def compute_loss(loss: Any, loss_inputs: LossInputs) -> tuple[Tensor, Statistics]:
    """Call a loss of any contract with its inputs. Return the scalar, and detached statistics by name.

    On several ranks, with inputs that are of one rank's lists, all ranks call it together. The value is that of the
    whole step; its gradient is the one for the lists of this rank.

    Raises ValueError if one of its inputs is missing.
    """
    if not (loss_inputs.share.is_whole or is_sharded(loss)):
        loss_inputs = whole_inputs(loss, loss_inputs)
    if loss.contract == "wrapper":
        return loss(loss_inputs)
    inputs = select_inputs(loss, loss_inputs)
    if loss_inputs.weights is not None:
        inputs["weights"] = loss_inputs.weights
    if not loss_inputs.share.is_whole:
        inputs["share"] = loss_inputs.share
    if loss.contract == "list":
        result = loss(loss_inputs.list_scores(), loss_inputs.labels, loss_inputs.mask, **inputs)
    else:
        result = loss(loss_inputs.queries, loss_inputs.documents, loss_inputs.labels, loss_inputs.mask, **inputs)
    value, statistics = result if isinstance(result, tuple) else (result, {})
    if getattr(value, "shape", None) != ():
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss {type(loss).__name__} returns a scalar tensor, found {found}")
    return value, statistics


def is_sharded(loss: Any, method: str = "__call__") -> bool:
    """Whether a rank computes its own part of the loss. A class that overrides `method` must say so again."""
    for kind in type(loss).__mro__:
        if "sharded" in vars(kind):
            return bool(loss.sharded)
        if method in vars(kind):
            return False
    return False


def whole_losses(loss: Any) -> list[Any]:
    """The losses, of this one and those inside it, that every rank computes for the lists of all ranks."""
    if not is_sharded(loss):
        return [loss]
    return [each for inner in getattr(loss, "losses", ()) for each in whole_losses(inner)]


def whole_inputs(loss: Any, loss_inputs: LossInputs) -> LossInputs:
    """The inputs of all ranks that a loss reads."""
    if loss.contract == "wrapper":
        return loss_inputs.whole()
    read = {*input_names(loss), *getattr(loss, "optional_inputs", ())}
    if loss.contract == "list":
        return replace(loss_inputs, scores=loss_inputs.list_scores()).whole({"scores", *read})
    return loss_inputs.whole({"queries", "documents", *read})


def select_inputs(loss: Any, loss_inputs: LossInputs) -> dict[str, Any]:
    """Return the inputs of a loss by name. Raises ValueError if one that is not optional is missing."""
    inputs = {name: getattr(loss_inputs, name) for name in input_names(loss)}
    if missing := [name for name, value in inputs.items() if value is None]:
        raise ValueError(f"loss {type(loss).__name__} needs {', '.join(missing)}, which this run does not have")
    optional = {name: getattr(loss_inputs, name) for name in getattr(loss, "optional_inputs", ())}
    return inputs | {name: value for name, value in optional.items() if value is not None}


def input_names(loss: Any) -> tuple[str, ...]:
    """Return `loss.inputs`, or nothing for a user's loss that does not declare any."""
    return tuple(getattr(loss, "inputs", ()))


def all_losses(loss: Any) -> list[Any]:
    """Return a loss and the losses inside it."""
    return [loss, *(each for inner in getattr(loss, "losses", ()) for each in all_losses(inner))]


def largest_dimension(loss: Any) -> int:
    """How many dimensions the embeddings must have at least for a loss and those inside it."""
    return max(getattr(each, "largest_dimension", 0) for each in all_losses(loss))


def normalizes_embeddings(loss: Any) -> bool:
    """Whether a loss, or one inside it, brings embeddings to unit length."""
    return any(getattr(each, "normalizes", False) for each in all_losses(loss))


def reads_one_vector(loss: Any) -> bool:
    """Whether a loss, or one inside it, reads embeddings that are one vector each."""
    return any(getattr(each, "reads_one_vector", each.contract == "matrix") for each in all_losses(loss))


def takes_logits(loss: Any) -> bool:
    """Whether a loss reads scores as logits: it has no temperature of its own, and no teacher gives the scale."""
    own_temperature = getattr(loss, "temperature", 1.0) != 1.0
    return loss.contract == "list" and not own_temperature and "teacher_scores" not in input_names(loss)


def compares_embeddings(loss: Any) -> bool:
    """Whether a loss, or one inside it, needs embeddings and not only scores."""
    return any(getattr(each, "compares_embeddings", False) for each in all_losses(loss))


def reads_soft_labels(loss: Any) -> bool:
    """Whether a loss, or one inside it, takes labels from 0 to 1 as targets."""
    return any(getattr(each, "soft_labels", False) for each in all_losses(loss))


def reads_raw_scores(loss: Any) -> bool:
    """Whether a loss, or one inside it, compares with the values of a teacher's raw scores (logits)."""
    return any(getattr(each, "reads_raw_scores", False) for each in all_losses(loss))


def standardizes_teacher(loss: Any) -> bool:
    """Whether a loss, or one inside it, reads the standard deviation of the teacher's scores."""
    return "teacher_deviation" in input_names(loss)


def reads_projection(loss: Any) -> bool:
    """Whether a loss, or one inside it, compares a teacher's embeddings with the model's, projected if need be."""
    return any(getattr(each, "reads_projection", False) for each in all_losses(loss))


def is_policy(loss: Any) -> bool:
    """Whether a loss is a policy: it samples actions from the scores, and trainer=grpo trains it."""
    return getattr(loss, "samples_actions", False)


def required_outputs(loss: Any) -> frozenset[str]:
    """Return the model outputs that a loss and those inside it need, names of OUTPUTS.

    Empty if any model fits: every model gives scores, or embeddings whose similarities are the scores.
    """
    of_inputs = {OUTPUT_OF_INPUT[name] for name in input_names(loss) if name in OUTPUT_OF_INPUT}
    return frozenset(of_inputs | ({"embedding"} if compares_embeddings(loss) else set()))


def has_in_batch_negatives(loss: Any) -> bool:
    """Whether a loss, or one inside it, uses documents of other lists as negatives. Then duplicates matter."""
    return any(getattr(each, "in_batch_negatives", False) for each in all_losses(loss))


def is_shift_invariant(loss: Any) -> bool:
    """Whether a loss and those inside it read only the differences of a list's scores."""
    return all(getattr(each, "shift_invariant", False) for each in all_losses(loss))


def gives_probabilities(loss: Any) -> bool:
    """Whether a loss, or every loss inside it, makes the sigmoid of a score a probability."""
    own = [each for each in all_losses(loss) if each.contract != "wrapper"]
    return all(getattr(each, "gives_probabilities", False) for each in own)


def requirements(loss: Any) -> frozenset[str]:
    """Return what a loss and those inside it need of the data, names of REQUIREMENTS."""
    outer = () if loss.contract == "wrapper" else getattr(loss, "data_requirements", ("comparison",))
    return frozenset(outer).union(*(requirements(inner) for inner in getattr(loss, "losses", ())))


class MissingRequirements(ValueError):
    """A loss needs what the training lists of a data set do not give."""

    def __init__(self, loss: Any, available: Collection[str], data: str, *, outputs: Collection[str], remedy: str = ""):
        """`available`: what the lists give; `outputs`: what the model gives."""
        missing = [f"{need} ({REQUIREMENTS[need]})" for need in missing_requirements(loss, available)]
        super().__init__(
            f"loss {type(loss).__name__} does not fit data {data}, whose training lists lack {' and '.join(missing)}"
            f"{remedy and f': {remedy}'}"
        )
        self.available = frozenset(available)
        self.outputs = frozenset(outputs)


def missing_requirements(loss: Any, available: Collection[str]) -> list[str]:
    """Return what `loss` needs and the data does not give, names of REQUIREMENTS."""
    required = requirements(loss)
    return [need for need in REQUIREMENTS if need in required and need not in available]
