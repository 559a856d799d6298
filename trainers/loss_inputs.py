"""What losses see, made of the gathered representations and the batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from data.batch import ListBatch
from losses.contracts import LossInputs
from trainers.step import Representations


def make_loss_inputs(representations: Representations, batch: ListBatch, **inputs: Any) -> LossInputs:
    """`LossInputs` of the whole global step. `inputs` are further fields; they take precedence over the batch's own.

    A cross-encoder's rows carry "score" [rows], an LLM reranker's perhaps "logsumexp" [rows] too. A bi-encoder's carry
    "embedding" [rows, dim], and may carry "layers" [rows, layers, dim], "scale" and "bias" [rows]: one value of the
    model, read off the first row, so that a learned one gets its whole gradient through that row's chunk, exact on any
    number of ranks and chunks.
    """
    device = next(iter(representations.values())).device
    of_batch: dict[str, Any] = {
        "labels": batch.labels.to(device),
        "mask": batch.mask.to(device),
        "query_hashes": batch.query_hashes.to(device),
        "document_hashes": batch.document_hashes.to(device),
        "teacher_scores": batch.teacher_scores.to(device),
        "weights": None if batch.weights is None else batch.weights.to(device),
    }
    return LossInputs(**(of_batch | _outputs(representations, batch) | inputs))


def _outputs(representations: Representations, batch: ListBatch) -> dict[str, Tensor]:
    """The model's outputs by field of `LossInputs`."""
    if "score" in representations:
        fields = {"scores": batch.to_lists(representations["score"])}
        if "logsumexp" in representations:
            fields["logsumexp"] = batch.to_lists(representations["logsumexp"])
        return fields
    queries, documents = batch.split_texts(representations["embedding"])
    fields = {"queries": queries, "documents": documents}
    if "layers" in representations:
        fields["query_layers"], fields["document_layers"] = batch.split_texts(representations["layers"])
    return fields | {name: representations[name][0] for name in ("scale", "bias") if name in representations}
