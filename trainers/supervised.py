"""Supervised training on candidate lists, with contrastive, listwise, preference and distillation losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data.batch import ListBatch
from losses.contracts import LossInputs, Statistics, compute_loss, is_policy
from trainers.options import TrainerConfig
from trainers.parts import TrainerParts
from trainers.trainer import Trainer

CONTRACTS = ("list", "matrix", "wrapper")


@dataclass(frozen=True, kw_only=True)
class SupervisedTrainerConfig(TrainerConfig):
    """Options of `SupervisedTrainer`."""

    def check(self, loss: Any) -> None:
        if getattr(loss, "contract", None) not in CONTRACTS or is_policy(loss):
            raise ValueError(
                f"trainer=ranking needs a loss such as loss=softmax_cross_entropy, whose contract is one of "
                f"{', '.join(CONTRACTS)}; got {type(loss).__name__} (policy losses go with trainer=grpo)"
            )

    def build(self, parts: TrainerParts) -> SupervisedTrainer:
        return SupervisedTrainer(self, parts)


class SupervisedTrainer(Trainer):
    """Minimises a loss of any contract over the lists of the global step."""

    sharded = True

    def objective(self, lists: LossInputs, batch: ListBatch) -> tuple[Tensor, Statistics]:
        return compute_loss(self.loss_of(batch), lists)
