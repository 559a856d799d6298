"""Set the dropout of pretrained models, under any name that a model has for it, or switch it off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PretrainedConfig

# Attribute of a module whose dropout was disabled: the earlier values in its configuration.
LOADED = "dropout_of_the_loaded_model"


def check_dropout(probability: float | None) -> None:
    """Raise ValueError if `model.dropout` is not a probability below 1."""
    if probability is not None and not 0 <= probability < 1:
        raise ValueError(f"model.dropout={probability} must be null or in [0, 1)")


def request_dropout(config: PretrainedConfig, probability: float | None) -> None:
    """Set `model.dropout`; None leaves the pretrained one. Raises ValueError if the model has no dropout."""
    if probability is not None and not set_dropout(config, probability):
        raise ValueError(f"model.dropout={probability}: {config.model_type} has no dropout; set it to null")


def set_dropout(config: PretrainedConfig, probability: float) -> bool:
    """Set every dropout probability of the configuration, whatever its name (hidden_dropout_prob, attn_pdrop, ...).
    Returns whether there is one."""
    names = _names(config)
    for name in names:
        setattr(config, name, probability)
    return bool(names)


def _names(config: PretrainedConfig) -> list[str]:
    return [name for name in config.to_dict() if ("dropout" in name or name.endswith("pdrop")) and "layer" not in name]


def disable_dropout(model: nn.Module) -> None:
    """Switch dropout off in training mode: that of `nn.Dropout`, and the probabilities that modules pass to `F.dropout`
    or to an attention kernel, from their attributes (attention_dropout, ...) or their configuration.
    `dropout_as_loaded` restores those of the configuration."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("drop")):
                setattr(module, name, 0.0)
        if isinstance(config := getattr(module, "config", None), PretrainedConfig):
            if not hasattr(module, LOADED):  # a model comes before its submodules, which share its configuration
                setattr(module, LOADED, {name: getattr(config, name) for name in _names(config)})
            set_dropout(config, 0.0)


def run_without_dropout(model: nn.Module, what: str) -> None:
    """Switch dropout off for the rest of the run. Raises ValueError if the user has set a dropout probability."""
    if requested := getattr(model, "requested_dropout", 0.0):
        raise ValueError(
            f"{what} runs without dropout, got {requested}: set model.dropout (null or 0) or lora.dropout (0)"
        )
    disable_dropout(model)


@contextmanager
def dropout_as_loaded(model: nn.Module) -> Iterator[None]:
    """Restore the dropout in the model's configuration while the model is exported. So the exported model has it in
    further training, even if this training ran without."""
    config: Any = getattr(model, "config", None)
    for name, value in getattr(model, LOADED, {}).items():
        setattr(config, name, value)
    try:
        yield
    finally:
        if hasattr(model, LOADED):
            set_dropout(config, 0.0)
