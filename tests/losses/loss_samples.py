"""The samples of the property tests: every configured loss, lists with every input, and changes to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from launch.cli.compose import load
from launch.cli.schema import locate
from losses.contracts import LossInputs, Statistics, all_losses, compute_loss, input_names
from losses.math.similarity import MaxSim
from losses.xtr import XTR
from runs.source_tree import CONF
from tensors.ragged import Ragged

PER_LIST = ("queries", "query_layers", "query_hashes", "weights", "guide_queries", "teacher_queries")
PER_DOCUMENT = (
    *("scores", "labels", "mask", "documents", "document_layers", "document_hashes", "teacher_scores"),
    *("reference_scores", "guide_documents", "teacher_documents", "old_scores", "actions"),
    *("logsumexp", "old_logsumexp", "reference_logsumexp"),
)
REPRESENTATIONS = ("scores", "logsumexp", "queries", "documents", "query_layers", "document_layers", "scale", "bias")
DIM, LAYERS = 64, 3
# Options of torch.autograd.gradcheck: along a random direction of each input instead of along each of its elements, for
# two values instead of hundreds. The tolerances are such that a wrong derivative of one element still shows in the sum.
PROJECTED: dict[str, Any] = {"fast_mode": True, "rtol": 1e-6, "atol": 1e-8}


def configured(config_dir: Path | None = None) -> list[str]:
    """The choices of `loss=`: every file of conf/loss, or of the loss folder of a configuration directory."""
    folder = (config_dir or CONF) / "loss"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def target(name: str, config_dir: Path | None = None) -> Any:
    """The class that a file of conf/loss names, without composing it."""
    file = (config_dir or CONF) / "loss" / f"{name}.yaml"
    return locate(yaml.safe_load(file.read_text())["_target_"], str(file))


def kinds(name: str, config_dir: Path | None = None) -> tuple[str, ...]:
    """Return the inputs to test a loss with: scores or embeddings; both for a wrapper that does not need embeddings."""
    contract = target(name, config_dir).contract
    if contract != "wrapper":
        return ("scores",) if contract == "list" else ("embeddings",)
    loss = load_loss(name, config_dir)
    compared = any(getattr(one, "compares_embeddings", False) for one in all_losses(loss))
    return ("embeddings",) if compared else ("scores", "embeddings")


@cache
def load_loss(name: str, config_dir: Path | None = None) -> Any:
    """Return the loss that `loss=NAME` on the command line makes."""
    return load([f"loss={name}"], config_dir=config_dir).loss


def computed(loss: Any, inputs: Any) -> tuple[Tensor, Statistics]:
    """The loss of these inputs. One of token vectors gets texts of one token each; padding has none."""
    if any(isinstance(each, XTR) for each in all_losses(loss)):
        one, mask = torch.ones(len(inputs.queries), dtype=torch.int64), inputs.mask
        documents = Ragged(inputs.documents[mask], mask.long().cpu())
        inputs = replace(inputs, queries=Ragged(inputs.queries, one), documents=documents, similarity=MaxSim())
    return compute_loss(loss, inputs)


def is_exempt(loss: Any, flag: str) -> bool:
    """Whether a loss, or one inside it, claims the exemption `flag` of losses.contracts.Loss."""
    exempt_value = flag in ("depends_on_other_lists", "saturates", "masks_misordered")
    return any(getattr(one, flag, not exempt_value) is exempt_value for one in all_losses(loss))


@dataclass(frozen=True, kw_only=True)
class Sample(LossInputs):
    """`LossInputs`, with any leading axes if the loss allows them, and the further inputs of a policy."""

    old_scores: Tensor | None = None  # [..., n]
    old_logsumexp: Tensor | None = None  # [..., n]
    actions: Tensor | None = (
        None  # [..., n, G] each document's part in each: its place, answer, or whether it is chosen
    )

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def change(self, per_list: Callable[[Tensor], Tensor], per_document: Callable[[Tensor], Tensor]) -> Sample:
        tensors = self.tensors()
        lists = {name: per_list(tensors[name]) for name in PER_LIST if name in tensors}
        documents = {name: per_document(tensors[name]) for name in PER_DOCUMENT if name in tensors}
        return replace(self, **lists, **documents)

    def at(self, index: Any) -> Sample:
        """Some of the lists, or other leading axes."""
        return self.change(lambda value: value[index], lambda value: value[index])

    def documents_at(self, index: Any) -> Sample:
        """Some of the documents, or another order of them."""
        return self.change(lambda value: value, lambda value: value[:, index])

    def to(self, dtype: torch.dtype, names: tuple[str, ...] | None = None) -> Sample:
        tensors = {name: value for name, value in self.tensors().items() if names is None or name in names}
        return replace(self, **{name: value.to(dtype) for name, value in tensors.items() if value.is_floating_point()})

    def padded(self, width: int) -> Sample:
        """Add `width` documents of padding; all padding has NaN or the hash of a document. Without actions."""
        return replace(self, actions=None).change(lambda value: value, lambda value: self._pad(value, width))

    def _pad(self, value: Tensor, width: int) -> Tensor:
        wide = torch.cat([value, value[:, :1].expand(-1, width, *value.shape[2:])], dim=1)
        mask = torch.nn.functional.pad(self.mask, (0, width))
        junk = False if value.dtype == torch.bool else torch.nan if value.is_floating_point() else int(value[0, 0])
        return wide.masked_fill(~mask.reshape(*mask.shape, *[1] * (value.ndim - 2)), junk)

    def followed_by_padding(self) -> Sample:
        """Add a list whose documents are all padding."""
        longer = self.at([*range(len(self.mask)), 0])
        mask = longer.mask.clone()
        mask[-1] = False
        return replace(longer, mask=mask)


class Result(NamedTuple):
    value: Tensor
    gradients: dict[str, Tensor]  # by representation; zeros where the loss does not read it
    statistics: Statistics


@dataclass(frozen=True)
class Case:
    """A loss, and whether it is given scores or embeddings."""

    loss: Any
    kind: str

    def sample(self) -> Sample:
        """Lists of 5, 3, 4 and 4 documents: of several grades, of one relevant document, of one label, of none."""
        sample = scored_lists() if self.kind == "scores" else embedded_lists()
        if "seed" in input_names(self.loss):  # no ties: they are broken by random draws
            labels = torch.tensor([[1, 3, 2, 0, 4], [2, 0, 1, 0, 0], [4, 1, 2, 3, 0], [3, 1, 0, 2, 0]])
            sample = replace(sample, labels=labels.float())
        return self.with_actions(sample)

    def with_actions(self, sample: Sample) -> Sample:
        """Add actions sampled from these lists if the loss is a policy."""
        return self.loss.with_actions(sample) if hasattr(self.loss, "with_actions") else sample

    def value(self, sample: Sample) -> Tensor:
        return computed(self.loss, sample)[0]

    def evaluate(self, sample: Sample) -> Result:
        represented = {name: value for name, value in sample.tensors().items() if name in REPRESENTATIONS}
        inputs = {name: value.detach().clone().requires_grad_() for name, value in represented.items()}
        value, statistics = computed(self.loss, replace(sample, **inputs))
        assert value.ndim == 0
        assert value.requires_grad, "the loss is not attached to the graph"
        gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True, materialize_grads=True)
        return Result(value.detach(), dict(zip(inputs, gradients, strict=True)), statistics)


@cache
def scored_lists() -> Sample:
    """Return lists with the outputs of a cross-encoder."""
    generator = torch.Generator().manual_seed(0)
    scores, old, reference, teacher = torch.randn(4, 4, 5, generator=generator).unbind()
    others = torch.rand(4, 5, generator=generator) + 0.2  # log of what the other tokens add
    return Sample(
        scores=scores,
        mask=torch.arange(5) < torch.tensor([[5], [3], [4], [4]]),
        labels=torch.tensor([[0, 2, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]]).float(),
        query_hashes=torch.tensor([11, 12, 13, 14]),
        document_hashes=torch.arange(20).reshape(4, 5),
        teacher_scores=teacher,
        reference_scores=reference,
        old_scores=old,
        logsumexp=torch.nn.functional.softplus(scores) + others,
        old_logsumexp=torch.nn.functional.softplus(old) + others.flip(0),
        reference_logsumexp=torch.nn.functional.softplus(reference) + others.flip(1),
        **_progress(),
    )


@cache
def embedded_lists() -> Sample:
    """Return lists with the outputs of a bi-encoder: with earlier layers, a guide, and one document in two lists."""
    generator = torch.Generator().manual_seed(1)

    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    scored = scored_lists()
    documents, keys = unit(4, 5, DIM), scored.document_hashes.clone()
    documents[1, 2], keys[1, 2] = documents[0, 1], keys[0, 1]
    return replace(
        scored,
        **dict.fromkeys(("scores", "old_scores", "logsumexp", "old_logsumexp", "reference_logsumexp")),
        queries=unit(4, DIM),
        documents=documents,
        query_layers=unit(4, LAYERS, DIM),
        document_layers=unit(4, 5, LAYERS, DIM),
        document_hashes=keys,
        guide_queries=unit(4, 6),
        guide_documents=unit(4, 5, 6),
        teacher_queries=unit(4, DIM),
        teacher_documents=unit(4, 5, DIM),
        scale=torch.tensor(20.0),
        bias=torch.tensor(-10.0),
    )


def misordered(kind: str) -> Sample:
    """Return two lists of two documents, in which the irrelevant one scores 30 above the relevant one."""
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    common: dict[str, Any] = {
        "labels": labels,
        "mask": labels > -1,
        "teacher_scores": 3 * labels,
        "reference_scores": 0 * labels,
        "query_hashes": torch.tensor([1, 2]),
        "document_hashes": torch.arange(4).reshape(2, 2),
        **_progress(),
    }
    if kind == "scores":
        return Sample(scores=15 - 30 * labels, **common)
    queries = torch.eye(2, DIM)
    aside = 0.2 * torch.eye(4, DIM)[2:]  # exactly along a query, the gradient of a document of unit length is 0
    documents = 0.98 * queries[:, None] * (1 - 2 * labels)[..., None] + aside[:, None]
    layers = {"query_layers": queries[:, None], "document_layers": documents[:, :, None]}
    layers = {name: value.repeat_interleave(LAYERS, dim=-2) for name, value in layers.items()}
    guides = {"guide_queries": queries, "guide_documents": queries[:, None] * (2 * labels - 1)[..., None]}
    guides["teacher_queries"] = queries
    # Of several lengths: a row of similarities that is exactly opposite to the teacher's has no gradient.
    guides["teacher_documents"] = guides["guide_documents"] * torch.tensor([1.0, 0.8])[:, None]
    scale = {"scale": torch.tensor(15 / 0.98), "bias": torch.tensor(0.0)}
    return Sample(queries=queries, documents=documents, **layers, **guides, **scale, **common)


def _progress() -> dict[str, Any]:
    return {"step": 3, "progress": 0.5, "seed": 7, "teacher_deviation": torch.tensor(2.0)}
