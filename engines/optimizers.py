"""The optimizers: AdamW and SGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

Schedule = Callable[[Optimizer], LRScheduler]

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101) or plain SGD.

    Weight decay applies to matrices only (weights, embeddings, LoRA factors), not to biases, norm weights and scalars.
    """

    name: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ValueError(f"trainer.optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.name!r}")

    def build(self, model: nn.Module) -> Optimizer:
        """Build the optimizer of the trainable parameters of `model`. Raises ValueError if there are none."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError("the model has no trainable parameter: nothing to optimise")
        groups = [
            {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.name == "sgd":
            return SGD(groups, lr=self.learning_rate, fused=True)
        return AdamW(groups, lr=self.learning_rate, betas=self.betas, fused=True)
