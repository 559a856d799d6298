"""Dropout of pretrained models, whatever a model calls it: set all of it, or switch it off."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig


def check_dropout(probability: float | None) -> None:
    """Raises ValueError where `model.dropout` is no probability below 1."""
    if probability is not None and not 0 <= probability < 1:
        raise ValueError(f"model.dropout={probability} must be null or in [0, 1)")


def ask_dropout(config: PretrainedConfig, probability: float | None) -> None:
    """`model.dropout`: None leaves what was pretrained. Raises ValueError where the model has no dropout."""
    if probability is not None and not set_dropout(config, probability):
        raise ValueError(f"model.dropout={probability}: {config.model_type} has no dropout; set it to null")


def set_dropout(config: PretrainedConfig, probability: float) -> bool:
    """Every dropout probability of the configuration, whatever its name (hidden_dropout_prob, attn_pdrop, ...);
    whether there is one."""
    names = [name for name in config.to_dict() if ("dropout" in name or name.endswith("pdrop")) and "layer" not in name]
    for name in names:
        setattr(config, name, probability)
    return bool(names)


def disable_dropout(model: nn.Module) -> None:
    """Dropout off in training mode: `nn.Dropout`, and the numbers that modules hand to `F.dropout` or to an attention
    kernel, their own (attention_dropout, ...) or their configuration's."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("drop")):
                setattr(module, name, 0.0)
        if isinstance(config := getattr(module, "config", None), PretrainedConfig):
            set_dropout(config, 0.0)
