"""The number format of forward passes: weights stay float32, bf16 runs under autocast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "fp32", "bf16")


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"engine.precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """auto: bf16 on GPUs that compute in it, fp32 elsewhere."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


@dataclass(frozen=True)
class MixedPrecision:
    """`model`, whose forward runs under autocast where `bf16` says so, and nothing outside of it does."""

    model: nn.Module
    bf16: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`model(**features)` in float32."""
        device = next(iter(features.values())).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            output = self.model(**features)
        return {name: value.float() for name, value in output.items()}
