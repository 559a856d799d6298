"""The teacher and the guide: frozen auxiliary models that score or embed every batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from data.batch import ListBatch
from engines.precision import MixedPrecision
from inference.shared_prefix import list_collator
from losses.contracts import LossInputs
from losses.math.share import Share
from trainers.loss_inputs import inputs_without_gradient


class AuxiliaryModel:
    """A frozen model beside the trained one. Its own tokenizer makes its sequences, which every list holds under
    `name`."""

    def __init__(
        self, model: nn.Module, name: str, *, token_budget: int, device: torch.device, autocast: torch.dtype | None
    ):
        self.tokenizer: Any = model.tokenizer
        self.source = str(model.source)  # the name or path that its weights came from
        self.name = name
        self.token_budget = token_budget
        self.model = MixedPrecision(model.requires_grad_(False).eval().to(device), autocast)

    def forward(self, batch: ListBatch, share: Share) -> LossInputs:
        """Compute the scores or embeddings of the batch, on every rank those of its share."""
        model, sequences = self.model, batch.auxiliary_sequences(self.name)
        sizes = [len(example.auxiliary[self.name]) for example in batch.examples]
        collator = list_collator(model.model, self.tokenizer.padding, self.token_budget)
        return inputs_without_gradient(model, sequences, sizes, collator, batch, share)


def auxiliary_inputs(
    models: Mapping[str, AuxiliaryModel], batch: ListBatch, read: Collection[str], share: Share
) -> dict[str, Tensor | None]:
    """Compute the fields of `LossInputs` that the teacher and the guide fill, if the loss of the batch `read`s them."""
    inputs: dict[str, Tensor | None] = {}
    if "teacher" in models and not {"teacher_scores", "teacher_queries"}.isdisjoint(read):
        teacher = models["teacher"].forward(batch, share)  # once, whatever is read of it
        if "teacher_scores" in read:
            inputs["teacher_scores"] = teacher.list_scores()
        if "teacher_queries" in read:
            inputs |= {"teacher_queries": teacher.queries, "teacher_documents": teacher.documents}
    if "guide" in models and "guide_queries" in read:
        guide = models["guide"].forward(batch, share)
        inputs |= {"guide_queries": guide.queries, "guide_documents": guide.documents}
    return inputs
