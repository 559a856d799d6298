"""GRPO on rankings: sample from the Plackett-Luce policy of a list's scores, reward, reinforce."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from data.keys import stable_hash
from data.rows import ListBatch
from engines.precision import MixedPrecision
from evaluation.scoring import score_rows
from models.cross_encoder import CrossEncoder
from models.dropout import disable_dropout
from models.lora import has_adapters, reference
from trainers.chunked import Representations
from trainers.options import TrainerConfig
from trainers.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class GRPOTrainerConfig(TrainerConfig):
    """Options of `GRPOTrainer`; `num_iterations` updates are made on the rankings sampled from each batch."""

    num_iterations: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_iterations < 1:
            raise ValueError(f"trainer.num_iterations must be at least 1, got {self.num_iterations}")

    def check(self, loss: Any) -> None:
        if not hasattr(loss, "sample"):
            raise ValueError(
                f"trainer=grpo needs a policy loss such as loss=plackett_luce_grpo, got {type(loss).__name__} "
                f"(supervised losses go with trainer=ranking)"
            )
        if self.num_iterations > 1 and loss.on_policy_only:
            raise ValueError(
                f"trainer.num_iterations={self.num_iterations}: gradient_estimator={loss.gradient_estimator} "
                "holds only for one update per batch"
            )

    def build(self, **parts: Any) -> GRPOTrainer:
        return GRPOTrainer(self, **parts)


class GRPOTrainer(Trainer):
    """Maximises the expected reward of sampled rankings.

    The old policy is the scores of the batch's first update, the reference policy the scores of the starting model:
    both are floats per document. Rankings are drawn anew from the old scores with the same keys at each of the
    `num_iterations` updates, so that only those scores need to be kept.
    """

    config: GRPOTrainerConfig

    def __init__(self, config: GRPOTrainerConfig, *, model: nn.Module, loss: Any, **parts: Any):
        if asked := getattr(model, "asked_dropout", 0.0):
            raise ValueError(
                f"trainer=grpo runs without dropout, got {asked}: set model.dropout (null or 0) or lora.dropout (0)"
            )
        disable_dropout(model)  # else the policy that is scored is not the one that sampled, and the ratio not 1
        needs_copy = loss.needs_reference and not has_adapters(model)
        self.reference = (
            copy.deepcopy(model).requires_grad_(False) if needs_copy else None
        )  # before any engine wraps it
        super().__init__(config, model=model, loss=loss, **parts)
        self.steps_per_batch = config.num_iterations
        self.old_scores: Tensor | None = None
        self.reference_scores: Tensor | None = None

    def objective(self, representations: Representations, batch: ListBatch) -> tuple[Tensor, dict[str, Tensor]]:
        scores = batch.to_lists(representations["score"])
        mask = batch.mask.to(scores.device)
        if (self.step - 1) % self.config.num_iterations == 0:
            self.old_scores = scores.detach()
            self.reference_scores = self._score_reference(batch) if self.loss.needs_reference else None
        keys = [stable_hash("rankings", self.seed, batch.number, index) for index in range(len(scores))]
        rankings = self.loss.sample(self.old_scores, mask, keys)
        return self.loss(
            scores,
            batch.labels.to(scores.device),
            mask,
            rankings=rankings,
            old_scores=self.old_scores,
            reference_scores=self.reference_scores,
        )

    def _score_reference(self, batch: ListBatch) -> Tensor:
        """Scores [lists, n] of the starting model: its frozen copy, or the adapters switched off."""
        arguments = (batch.rows, self.backward.padding, self.config.token_budget, self.engine.device)
        if self.reference is not None:
            starting = MixedPrecision(self.reference.to(self.engine.device), self.engine.bf16)
            return batch.to_lists(score_rows(starting.forward, *arguments))
        with reference(cast(CrossEncoder, self.engine.model)):
            return batch.to_lists(score_rows(self.engine.forward, *arguments))

    def family_state(self) -> dict[str, Any]:
        stored = {"old_scores": self.old_scores, "reference_scores": self.reference_scores}
        return {name: None if value is None else value.tolist() for name, value in stored.items()}

    def load_family_state(self, state: dict[str, Any]) -> None:
        device = self.engine.device
        for name, value in state.items():
            setattr(self, name, None if value is None else torch.tensor(value, device=device))
