"""The inputs of losses, made from the gathered representations and the batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from data.batch import ListBatch, to_device
from inference.runner import int8_ranges_of, similarity_of
from losses.contracts import LossInputs
from trainers.step import Representations


def make_loss_inputs(representations: Representations, batch: ListBatch, **inputs: Any) -> LossInputs:
    """Make the `LossInputs` of the whole global step. `inputs` are further fields, which replace those of the batch.

    A cross-encoder gives "score" [rows], an LLM reranker also "logsumexp" [rows] if it is wanted. A bi-encoder gives
    "embedding" [rows, dim], and perhaps "layers" [rows, layers, dim], "projected" [rows, any], "scale" and "bias"
    [rows]. Scale and bias are one value of the model, taken from the first row. So a learned one gets its whole
    gradient through that row's chunk, which is exact on any number of ranks and chunks.
    """
    device = next(iter(representations.values())).device
    of_batch: dict[str, Any] = {
        "labels": batch.labels,
        "mask": batch.mask,
        "query_hashes": batch.query_hashes,
        "document_hashes": batch.document_hashes,
        "never_negatives": batch.never_negatives,
        "isolated": batch.isolated,
        "teacher_scores": batch.teacher_scores,
        "weights": batch.weights,
    }
    of_batch = {name: None if value is None else to_device(value, device) for name, value in of_batch.items()}
    return LossInputs(**(of_batch | _outputs(representations, batch) | inputs))


def joined_int8_ranges(model: nn.Module, representations: Representations, batch: ListBatch) -> dict[int, Tensor]:
    """The model's int8 ranges joined with those of the documents of the whole global step, by number of dimensions.

    Every rank holds the gathered embeddings of all ranks, bit by bit, so the ranges are the same on all of them and for
    any chunks, without a reduction. The model does not keep them yet: a step that is not finite must change nothing.
    """
    similarity, ranges = similarity_of(model), int8_ranges_of(model)
    if ranges is None:
        return {}
    embedding = representations["embedding"].detach()
    documents = batch.split_texts(embedding)[1][to_device(batch.mask, embedding.device)]
    return ranges.joined({dim: similarity.comparable(documents, dim) for dim in ranges.dims})


def _outputs(representations: Representations, batch: ListBatch) -> dict[str, Tensor]:
    """The model's outputs by the name of their field in `LossInputs`."""
    if "score" in representations:
        fields = {"scores": batch.to_lists(representations["score"])}
        if "logsumexp" in representations:
            fields["logsumexp"] = batch.to_lists(representations["logsumexp"])
        return fields
    queries, documents = batch.split_texts(representations["embedding"])
    fields = {"queries": queries, "documents": documents}
    if "layers" in representations:
        fields["query_layers"], fields["document_layers"] = batch.split_texts(representations["layers"])
    if "projected" in representations:
        fields["projected_queries"], fields["projected_documents"] = batch.split_texts(representations["projected"])
    return fields | {name: representations[name][0] for name in ("scale", "bias") if name in representations}
