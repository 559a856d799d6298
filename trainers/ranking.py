"""Supervised training on candidate lists: any loss of (scores, labels, mask)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data.rows import ListBatch
from trainers.chunked import Representations
from trainers.options import TrainerConfig
from trainers.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class RankingTrainerConfig(TrainerConfig):
    """Options of `RankingTrainer`."""

    def check(self, loss: Any) -> None:
        if getattr(loss, "contract", None) != "list" or hasattr(loss, "sample"):
            raise ValueError(
                f"trainer=ranking needs a loss of (scores, labels, mask) such as loss=softmax_cross_entropy, "
                f"got {type(loss).__name__} (policy losses go with trainer=grpo)"
            )

    def build(self, **parts: Any) -> RankingTrainer:
        return RankingTrainer(self, **parts)


class RankingTrainer(Trainer):
    """Minimises `loss(scores, labels, mask)` over the lists of the global step."""

    def objective(self, representations: Representations, batch: ListBatch) -> tuple[Tensor, dict[str, Tensor]]:
        scores = batch.to_lists(representations["score"])
        return self.loss(scores, batch.labels.to(scores.device), batch.mask.to(scores.device)), {}
