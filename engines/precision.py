"""The number format of forward passes: weights stay float32, bf16 runs under autocast."""

from __future__ import annotations

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"engine.precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """auto: bf16 on GPUs that compute in it, fp32 elsewhere."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"
