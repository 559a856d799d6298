"""The precision of forward passes: weights stay float32, bf16 and fp16 run under autocast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")
TRAINING_PRECISIONS = (*PRECISIONS, "fp16")  # fp16 needs the loss scale of an engine


def check_precision(precision: str, valid: tuple[str, ...] = PRECISIONS) -> None:
    """Raise ValueError if `precision` is not one of the `valid` ones."""
    if precision not in valid:
        raise ValueError(f"engine.precision must be one of {', '.join(valid)}, got {precision!r}")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that forward passes compute in under autocast; None: float32. With "auto": bf16 on GPUs that support it
    natively. fp16 is never chosen by itself, since numbers above 65,504 overflow in it."""
    if precision == "auto":
        supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if supported else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether forward passes run in bf16."""
    return autocast_dtype(precision, device) is torch.bfloat16


def precision_name(autocast: torch.dtype | None) -> str:
    """The name of a precision: fp32, bf16 or fp16."""
    return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[autocast]


@dataclass(frozen=True)
class MixedPrecision:
    """A model whose forward runs under autocast to the type `autocast`; None: in float32. Nothing outside the forward
    does."""

    model: nn.Module
    autocast: torch.dtype | None

    @property
    def precision(self) -> str:
        """The name of the precision."""
        return precision_name(self.autocast)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Call `model(**features)`; the outputs are float32."""
        device = next(iter(features.values())).device
        with torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            output = self.model(**features)
        return {name: value.float() for name, value in output.items()}
