"""The inputs of losses for one global step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from losses.math.masking import without_padding
from losses.math.share import ALONE, Share
from losses.math.similarity import DOT, Similarity

Statistics = dict[str, Tensor]

# The fields that have no axis of lists.
OF_STEP = {"similarity", "never_negatives", "teacher_deviation", "int8_ranges", "scale", "bias"}
OF_STEP |= {"step", "progress", "seed", "share"}


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The inputs of a loss for one global step: Q candidate lists, padded to n documents.

    On several ranks these are the lists of this rank, the `share` says which, and a loss that cannot compute its part
    gets the `whole`.

    A cross-encoder gives `scores`. A bi-encoder gives `queries` and `documents`, which `similarity` compares without
    further normalisation (a model that compares by cosine gives them unit length). Values at padding are ignored.
    """

    labels: Tensor  # [Q, n] relevance, 0 = not relevant
    mask: Tensor  # [Q, n] bool, False at padding
    scores: Tensor | None = None  # [Q, n]
    logsumexp: Tensor | None = None  # [Q, n] logsumexp of an LLM's logits over its vocabulary, minus its logit of "no"
    queries: Any = None  # [Q, dim], or ragged rows [Q] (tensors/ragged.py); None: the model gives scores
    documents: Any = None  # [Q, n, dim] or ragged rows [Q, n]
    similarity: Similarity = DOT  # the model's similarity of queries and documents
    query_layers: Tensor | None = None  # [Q, layers, dim] embeddings of the earlier layers, first to last but one
    document_layers: Tensor | None = None  # [Q, n, layers, dim]
    query_hashes: Tensor | None = None  # [Q] int64, equal for equal texts
    document_hashes: Tensor | None = None  # [Q, n] int64
    # [any, 2] int64: a list of the step (also where these are those of a rank), the hash of a text that is no negative
    never_negatives: Tensor | None = None
    isolated: Tensor | None = None  # [Q] bool: a list that is compared with no other; None: there is none
    weights: Tensor | None = None  # [Q] weight of each list; None: 1
    teacher_scores: Tensor | None = None  # [Q, n] scores of a teacher, NaN if a document has none
    reference_scores: Tensor | None = None  # [Q, n] scores of the frozen model that training started from
    reference_logsumexp: Tensor | None = None  # [Q, n] logsumexp of the same model
    teacher_deviation: Tensor | None = None  # scalar: the standard deviation of the teacher's scores
    teacher_queries: Tensor | None = None  # [Q, any] embeddings of a teacher
    teacher_documents: Tensor | None = None  # [Q, n, any]
    projected_queries: Tensor | None = None  # [Q, any] embeddings, projected to the teacher's dimension by the model
    projected_documents: Tensor | None = None  # [Q, n, any]
    guide_queries: Tensor | None = None  # [Q, any] embeddings of a guide model (GIST)
    guide_documents: Tensor | None = None  # [Q, n, any]
    int8_ranges: Mapping[int, Tensor] | None = None  # {dim: [2, dim] lowest and highest values of documents so far}
    scale: Tensor | None = None  # scalar: the model's 1 / temperature, learned or fixed
    bias: Tensor | None = None  # scalar: the model's bias, learned with the scale (SigLIP)
    step: int = 0  # the optimizer step, from 1
    progress: float = 0.0  # fraction of the training that is done, 0 to 1
    share: Share = ALONE  # which lists of the step these are, and what this rank makes with the others
    seed: int = 0  # random draws inside a loss depend on (seed, step) only: the same on every rank

    def list_scores(self) -> Tensor:
        """Return [Q, n]: `scores`, or each query's similarity to the documents of its list, times `scale`."""
        if self.scores is not None:
            return self.scores
        assert self.queries is not None
        assert self.documents is not None
        similarities = self.similarity.pairs(self.queries, without_padding(self.documents, self.mask))
        return similarities if self.scale is None else similarities * self.scale

    def whole(self, read: Collection[str] | None = None) -> LossInputs:
        """The inputs of all lists of the step, of which every rank computes the same. `read`: the fields to gather
        beside labels, mask and weights, which the others are left out for; None: all."""
        kept = None if read is None else {"labels", "mask", "weights", *read}
        found: dict[str, Any] = {"share": ALONE}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is None or name in OF_STEP:
                continue
            if kept is not None and name not in kept:
                found[name] = None
            elif value.requires_grad:
                found[name] = self.share.gather(value)
            else:
                whole = self.share.whole(value)
                moved: Any = whole.to(value.device, non_blocking=True)
                if moved is not whole:
                    moved.on_host = whole
                found[name] = moved
        once = {name: getattr(self, name) for name in ("scale", "bias")}
        found |= {name: self.share.once(value) for name, value in once.items() if value is not None}
        return replace(self, **found)
