"""The optimizers: AdamW, AdamW with moments in 8 bits, and SGD."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

Schedule = Callable[[Optimizer], LRScheduler]

OPTIMIZERS = ("adamw", "adamw_8bit", "sgd")
SMALLEST_8BIT = 4096  # elements: smaller parameters have moments in float32, as bitsandbytes advises


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101), plain SGD, or AdamW whose moments have 8 bits (Dettmers et
    al., 2022, arXiv:2110.02861), of bitsandbytes.

    Weight decay applies to matrices only (weights, embeddings, LoRA factors), not to biases, norm weights and scalars.
    """

    name: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ValueError(f"trainer.optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.name!r}")
        if self.name == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(
                "trainer.optimizer=adamw_8bit needs bitsandbytes: pip install -c constraints.txt -e '.[eight-bit]' in "
                "the repository, or set adamw"
            )

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
        if self.name == "adamw_8bit":
            return _adamw_8bit(model, groups, lr=self.learning_rate, betas=self.betas)
        return AdamW(groups, lr=self.learning_rate, betas=self.betas, fused=True)


def parameters_in_8bit(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters whose moments have 8 bits under adamw_8bit: neither small ones nor embeddings, whose
    gradients are unstable (section 2.3 of the paper)."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.numel() >= SMALLEST_8BIT and id(parameter) not in embeddings
    ]


def _adamw_8bit(model: nn.Module, groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    optimizer: Any = AdamW8bit(groups, min_8bit_size=SMALLEST_8BIT, **options)
    # A manager of its own: the global one knows parameters by their addresses, which a later model may get again.
    optimizer.mng = object.__new__(GlobalOptimManager)
    optimizer.mng.initialize()
    kept = {id(parameter) for parameter in parameters_in_8bit(model)}
    for group in groups:
        for parameter in group["params"]:
            if id(parameter) not in kept:
                optimizer.mng.override_config(parameter, "optim_bits", 32)
    return optimizer
