"""The activation that libraries apply to a reranker's raw scores: the folder's own, or the one of model.activation."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn
from transformers import PretrainedConfig

from models.loading.folder import ModelFolder

logger = logging.getLogger(__name__)

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "identity": nn.Identity}


def check_activation(name: str | None) -> None:
    """Raise ValueError if this is no value of `model.activation`."""
    if name is not None and name not in ACTIVATIONS:
        raise ValueError(
            f"model.activation={name}: choose null (as the loss says, else the folder's) or {', '.join(ACTIVATIONS)}"
        )


def activation_named(name: str, folder: Path, *, default: type[nn.Module]) -> nn.Module:
    """The activation that a folder names, "torch.nn....". No other module is imported: any other name gives `default`,
    as in sentence-transformers."""
    found = getattr(nn, name.rsplit(".", 1)[-1], None) if name.startswith("torch.nn.") else None
    if found is None and name:
        logger.warning(
            "%s names the activation %s, which is not in torch.nn: %s is used", folder, name, default.__name__
        )
    return (found or default)()


def activation_of(folder: ModelFolder, config: PretrainedConfig) -> nn.Module:
    """The activation that sentence-transformers' CrossEncoder would use: the one that the folder names, or Sigmoid."""
    options = [
        folder.settings.get("activation_fn") if folder.kind == "CrossEncoder" else None,
        (getattr(config, "sentence_transformers", None) or {}).get("activation_fn"),
        getattr(config, "sbert_ce_default_activation_function", None),  # written before sentence-transformers 4
    ]
    name = next((option for option in options if option), "")
    return activation_named(name, folder.path, default=nn.Sigmoid)
