"""sentence-transformers' side of contrastive training, for each kind of model.

Token vectors and sparse weights need a layer that all-MiniLM-L6-v2 does not have. plackett adds it and exports the
model; both sides start from that folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.setting import Setting


@dataclass(frozen=True)
class Peer:
    """A model of sentence-transformers in training. `classes`: its trainer and the trainer's arguments."""

    model: Any
    loss: Any
    classes: tuple[Any, Any]


def embedder(folder: str, settings: Any, setting: Setting) -> Peer:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    model = SentenceTransformer(folder)
    scale, budget = 1 / settings.loss.temperature, setting.token_budget
    loss = (
        CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_num_tokens=budget)
        if budget
        else MultipleNegativesRankingLoss(model, scale=scale)
    )
    return Peer(model, loss, (SentenceTransformerTrainer, SentenceTransformerTrainingArguments))


def late_interaction(folder: str, settings: Any, setting: Setting) -> Peer:
    from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer
    from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
    from sentence_transformers.multi_vector_encoder.training_args import MultiVectorEncoderTrainingArguments

    model = MultiVectorEncoder(folder)
    loss = MultiVectorMultipleNegativesRankingLoss(model, scale=1 / settings.loss.temperature)
    return Peer(model, loss, (MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments))


def sparse_encoder(folder: str, settings: Any, setting: Setting) -> Peer:
    from sentence_transformers import SparseEncoder, SparseEncoderTrainer
    from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
    from sentence_transformers.sparse_encoder.training_args import SparseEncoderTrainingArguments

    model, terms = SparseEncoder(folder), settings.loss.terms
    ranking = SparseMultipleNegativesRankingLoss(model, scale=1 / terms["main"].loss.temperature)
    weights = {f"{role}_regularizer_weight": terms[role].weight for role in ("query", "document")}
    loss = SpladeLoss(model, ranking, **weights)
    return Peer(model, loss, (SparseEncoderTrainer, SparseEncoderTrainingArguments))


PEERS: dict[str, Callable[[str, Any, Setting], Peer]] = {
    "embedder_infonce": embedder,
    "colbert_infonce": late_interaction,
    "splade_infonce": sparse_encoder,
}
