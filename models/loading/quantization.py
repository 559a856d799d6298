"""Frozen weights in 4 bits under LoRA adapters.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

QUANTIZATIONS = ("4bit",)


def check_quantization(quantization: str | None, *, has_adapters: bool) -> None:
    """Raise ValueError if `model.quantization` cannot be trained."""
    if quantization not in (None, *QUANTIZATIONS):
        raise ValueError(f"model.quantization={quantization}: choose null or {', '.join(QUANTIZATIONS)}")
    if quantization is not None and not has_adapters:
        raise ValueError(f"model.quantization={quantization} freezes the weights: train adapters with model.lora")


def quantization_config(quantization: str | None) -> BitsAndBytesConfig | None:
    """The configuration for NF4 with quantised constants and computation in bf16. Raises ValueError if bitsandbytes
    cannot run."""
    if quantization is None:
        return None
    if not torch.cuda.is_available():
        raise ValueError(f"model.quantization={quantization} needs a CUDA device: set it to null here")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"model.quantization={quantization} needs bitsandbytes: pip install bitsandbytes, or null")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def dequantized(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the 4-bit weights in the `state` of `model` to float32, and drop their quantisation constants."""
    from bitsandbytes.functional import dequantize_4bit

    state = dict(state)
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")  # peft's wrapper shows its layer's under the same attribute
        if weight is None or (constants := getattr(weight, "quant_state", None)) is None:
            continue
        for key in [key for key in state if key.startswith(f"{name}.weight.")]:
            del state[key]
        state[f"{name}.weight"] = dequantize_4bit(weight.data, constants).float().cpu()
    return state
