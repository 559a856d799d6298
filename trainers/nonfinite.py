"""Batches whose loss or gradient is not finite: how they are found, and what is written about them.
`Trainer.skip_batch` acts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import ListBatch
from engines.distributed.collectives import agree_on_device, gather_objects
from engines.protocol import NotFinite
from tensors.ragged import Rows, elements, finite_rows

LARGE_OUTPUT = 1e6  # scores and embeddings of a model that trains are far below


class FiniteCheck:
    """Whether the outputs and the loss of a step are finite, found on the device without waiting for it.

    The step goes on as if they were: with 0 in the place of outputs that are not finite, since a kernel that meets NaN
    as an index or a probability may end the process. If something was not finite, every gradient of the weights becomes
    NaN (`spread`), so no engine updates with it, and `engine.step(finite)` raises `NotFinite`, which `explain` makes
    precise. Only then are the rows read.
    """

    def __init__(self, step: int, representations: Mapping[str, Rows], own_rows: np.ndarray):
        """`own_rows`: which rows of the step the representations are of, each on one rank."""
        self.step, self.own_rows = step, own_rows
        self.rows = _finite_rows(representations)
        with torch.no_grad():
            values = [elements(value) for value in representations.values()]
            for value in values:
                value.copy_(torch.where(value.isfinite(), value, 0.0))
            sizes = [value.abs().max() for value in values if value.numel()]
            self.largest = torch.stack([torch.zeros_like(sizes[0]) if sizes else torch.zeros(()), *sizes]).max()

    def spread(self, loss: Tensor, gradients: Mapping[str, Rows]) -> dict[str, Rows]:
        """The gradients of the representations, all of them NaN if anything is not finite on any rank."""
        self.loss, self.gradient_rows = loss.detach(), _finite_rows(gradients)
        self.finite, self.no_signal = agree_on_device(
            torch.stack([self.rows.all(), self.loss.isfinite(), self.gradient_rows.all()]).all()
        )
        factor = torch.where(self.finite, 1.0, float("nan"))
        return {name: gradient * factor.to(gradient.dtype) for name, gradient in gradients.items()}

    def explain(self, error: NotFinite) -> NotFinite:
        """The error with what is not finite, and in which rows. They are not known if it is the gradient of the weights
        alone."""
        if bool(self.finite):  # the same on all ranks, as is all that follows
            return NotFinite(str(error))
        own = self._broken(self.rows), self._broken(self.gradient_rows), len(self.own_rows), self.largest.item()
        outputs, gradients, numbers, sizes = zip(*gather_objects(own), strict=True)
        if broken := sorted(chain(*outputs)):
            reason = f"the model's output is not finite in {len(broken)} of {sum(numbers)} rows"
            return NotFinite(f"step {self.step}: {reason}", broken)
        reason = f"step {self.step}: the loss or its gradient is not finite (loss {self.loss.item()})"
        return NotFinite(reason, sorted(chain(*gradients)), max(sizes))

    def _broken(self, finite: Tensor) -> list[int]:
        """The rows of the step, of those of this rank, that are not finite."""
        return [int(self.own_rows[row]) for row in (~finite).nonzero().flatten().tolist()]


def _finite_rows(values: Mapping[str, Rows]) -> Tensor:
    """Whether all values of a row are finite [rows]."""
    return torch.stack([finite_rows(value) for value in values.values()]).all(dim=0)


def nonfinite_line(batch: ListBatch, error: NotFinite, *, step: int, action: str) -> dict[str, Any]:
    """The line of nonfinite.jsonl: the ids of the batch, and of the sequences that are not finite unless all are."""
    rows = [batch.sequence_ids(row) for row in error.rows] if len(error.rows) < len(batch.sequences) else []
    return {
        "step": step,
        "batch": batch.number,
        "source": batch.source,
        "action": action,
        "reason": str(error),
        "rows": [{"query_id": query, "document_id": document} for query, document in rows],
        "queries": [
            {"query_id": example.query_id, "document_ids": list(example.document_ids)} for example in batch.examples
        ],
    }


def stop_message(batch: ListBatch, error: NotFinite, num_skipped: int, max_skipped: int, *, fp16: bool) -> str:
    """The message of the error that ends the run. `fp16`: forward passes run in fp16."""
    return (
        f"{error}: nonfinite.jsonl names the batch; {num_skipped} batches were skipped before it: "
        f"{remedy(batch, error, fp16=fp16)}, or skip more with trainer.on_nonfinite=skip or rollback and "
        f"trainer.max_nonfinite ({max_skipped})"
    )


def remedy(batch: ListBatch, error: NotFinite, *, fp16: bool = False) -> str:
    """What may help: a lower learning rate, or, if a loss is not finite although the model's outputs are, other labels.

    The outputs of a training that diverges are large long before they are infinite. In fp16 it may also be the model's
    own numbers: those of models that were trained in bf16 are often above the largest one of fp16.
    """
    if error.largest_output is None or error.largest_output > LARGE_OUTPUT:
        wider = "set engine.precision=fp32 or bf16 (fp16 ends at 65,504), or " if fp16 else ""
        return f"{wider}lower trainer.learning_rate"
    numbers = {"labels": batch.labels[batch.mask], "teacher's scores": batch.teacher_scores[batch.mask]}
    known = {name: values[~values.isnan()].abs() for name, values in numbers.items()}
    sizes = [f"{name} up to {float(values.max()):g}" for name, values in known.items() if len(values)]
    return (
        f"the model's outputs are finite, up to {error.largest_output:.3g}, so the batch's numbers are too large "
        f"({' and '.join(sizes)}): divide them, or choose a loss that only compares them (loss=rank_net)"
    )
