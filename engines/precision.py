"""The precision of forward passes: weights stay float32, bf16 runs under autocast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")


def check_precision(precision: str) -> None:
    """Raise ValueError if `precision` is not one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise ValueError(f"engine.precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether forward passes run in bf16. With "auto": on GPUs that support it natively."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


@dataclass(frozen=True)
class MixedPrecision:
    """A model whose forward runs under bf16 autocast if `bf16` is set. Nothing outside the forward does."""

    model: nn.Module
    bf16: bool

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Call `model(**features)`; the outputs are float32."""
        device = next(iter(features.values())).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            output = self.model(**features)
        return {name: value.float() for name, value in output.items()}
