"""The inputs of losses, made from representations and the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import ListBatch, TokenSequences, to_device
from data.collate import Collator
from inference.runner import Runner, int8_ranges_of, similarity_of
from inference.score import represent_distinct
from losses.contracts import LossInputs
from losses.math.masking import rows_where
from losses.math.share import ALONE, Share, with_whole
from tensors.ragged import Rows, place, take
from trainers.step import Representations

# The fields of queries and documents that a representation of texts fills.
TEXT_FIELDS = {
    "embedding": ("queries", "documents"),
    "layers": ("query_layers", "document_layers"),
    "projected": ("projected_queries", "projected_documents"),
}
OF_BATCH = ("labels", "mask", "query_hashes", "document_hashes", "isolated", "teacher_scores", "weights")


def make_loss_inputs(
    representations: Representations, batch: ListBatch, *, share: Share = ALONE, **inputs: Any
) -> LossInputs:
    """Make the `LossInputs` of the lists of a share. `inputs` are further fields, which replace those of the batch.

    A cross-encoder gives "score" [rows], an LLM reranker also "logsumexp" [rows] if it is wanted. A bi-encoder gives
    "embedding" [rows, dim], and perhaps "layers" [rows, layers, dim], "projected" [rows, any], "scale" and "bias"
    [rows]. The rows are those of the share's lists. Scale and bias are one value of the model, taken from the first
    row. So the gradient of a learned one passes through that row's chunk, which is exact on any number of ranks and
    chunks.
    """
    device = next(iter(representations.values())).device
    of_batch: dict[str, Any] = {"never_negatives": to_device(batch.never_negatives, device)}
    for name in OF_BATCH:
        whole = getattr(batch, name)
        of_batch[name] = whole
        if whole is not None:
            own = to_device(part_of_lists(whole, share), device)
            of_batch[name] = own if share.is_whole else with_whole(own, whole)
    outputs = _outputs(representations, part_of_lists(batch.mask, share), part_of_lists(batch.sizes + 1, share))
    return LossInputs(**(of_batch | outputs | inputs), share=share)


def inputs_without_gradient(
    runner: Runner,
    sequences: TokenSequences,
    sizes: Sequence[int],
    collator: Collator,
    batch: ListBatch,
    share: Share,
) -> LossInputs:
    """Make the `LossInputs` of the lists of a share by a forward without gradients. A rank gets the representations of
    these lists alone.

    sequences: those of the batch for the model of `runner`, `sizes[i]` of list i. Call it on all ranks.
    """
    reader = None if share.is_whole else np.repeat(np.arange(len(sizes)) % share.ranks, sizes)
    representations = represent_distinct(runner, sequences, collator, sizes=sizes, reader=reader)
    return make_loss_inputs(representations, batch, share=share, similarity=similarity_of(runner.model))


def joined_int8_ranges(model: nn.Module, lists: LossInputs) -> dict[int, Tensor]:
    """The model's int8 ranges joined with those of the documents of the whole global step, by number of dimensions.

    They are the same on all ranks and for any chunks: the least and the most of several values is exact. The model does
    not keep them yet: a step that is not finite must change nothing.
    """
    ranges = int8_ranges_of(model)
    if ranges is None:
        return {}
    assert lists.documents is not None
    documents = rows_where(lists.documents.detach(), lists.mask)
    joined = ranges.joined({dim: lists.similarity.comparable(documents, dim) for dim in ranges.dims})
    return {dim: torch.stack([lists.share.least(low), lists.share.most(high)]) for dim, (low, high) in joined.items()}


def keep_int8_ranges(model: nn.Module, ranges: Mapping[int, Tensor]) -> None:
    """Let the model keep the ranges that a step has joined: its weights are updated."""
    if (kept := int8_ranges_of(model)) is not None:
        kept.keep(ranges)


def part_of_lists(values: Tensor, share: Share) -> Tensor:
    """The values of the share's lists, of those of all lists [lists, ...]; 0 for lists of padding."""
    if share.is_whole:
        return values
    own = share.own(len(values))
    found = values[to_device(own.clamp(max=len(values) - 1), values.device)]
    if own[-1] >= len(values):  # the last one alone
        found[-1] = 0
    return found


def _outputs(representations: Representations, mask: Tensor, texts: Tensor) -> dict[str, Any]:
    """The model's outputs by the name of their field in `LossInputs`. mask [lists, n] and texts [lists], the number of
    queries and documents of each list, are on the host."""
    if "score" in representations:
        fields = {"scores": place(representations["score"], mask)}
        if "logsumexp" in representations:
            fields["logsumexp"] = place(representations["logsumexp"], mask)
        return fields
    fields = {}
    for name, names in TEXT_FIELDS.items():
        if name in representations:
            fields |= dict(zip(names, _split_texts(representations[name], mask, texts), strict=True))
    # A rank without lists has no first row, and nothing that it would scale.
    return fields | {name: representations[name][:1].sum() for name in ("scale", "bias") if name in representations}


def _split_texts(values: Rows, mask: Tensor, texts: Tensor) -> tuple[Any, Any]:
    """Split values of layout "texts": [rows, ...] -> queries [lists, ...], documents [lists, n, ...]. A list of padding
    has no texts."""
    first = (texts.cumsum(0) - texts)[texts > 0]
    is_document = torch.ones(len(values), dtype=torch.bool)
    is_document[first] = False
    return place(take(values, first), texts > 0), place(take(values, is_document.nonzero().squeeze(1)), mask)
