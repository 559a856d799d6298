"""Keep some layers of a pretrained transformer: a student that starts as a part of its teacher."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from models.loading.folder import ModelFolder

KEPT_LAYERS = ("even", "first")
COUNT = "num_hidden_layers"  # configurations map it to their own name


def check_layers(num_layers: int | None, kept_layers: str) -> None:
    """Raise ValueError if the options have no meaning for any model."""
    if num_layers is not None and num_layers < 1:
        raise ValueError(f"model.num_layers={num_layers} must be null (all layers) or at least 1")
    if kept_layers not in KEPT_LAYERS:
        raise ValueError(f"model.kept_layers={kept_layers}: choose {' or '.join(KEPT_LAYERS)}")


def kept_indices(total: int, number: int, which: str) -> list[int]:
    """The layers of `total` that a student of `number` layers keeps, in ascending order. The first is among them.

    "even": spread from the first to the last layer, as in DistilBERT (Sanh et al. 2019, arXiv:1910.01108: 0, 2, 4, 7, 9
    and 11 of 12). "first": the top layers are dropped (Sajjad et al. 2023, arXiv:2004.03844).
    """
    if which == "first" or number == 1:
        return list(range(number))
    return [round(place * (total - 1) / (number - 1)) for place in range(number)]


def keep_layers(model: PreTrainedModel, folder: ModelFolder, number: int | None, which: str) -> None:
    """Keep `number` of the model's layers, and change its configuration so that its export is a model of that size;
    None: keep all. Embeddings, final norm, pooler and head stay.

    Raises ValueError if there are fewer layers, or if the model has no plain list of them.
    """
    if number is None:
        return
    config: Any = model.config
    total = getattr(config, COUNT, None)
    if total is None or total < number:
        has = "does not say how many layers it has" if total is None else f"has {total} layers"
        remedy = "null (all layers)" if total is None else f"1 to {total}, or null (all)"
        raise ValueError(f"model.num_layers={number}: {folder.path} {has}: give {remedy}")
    if total == number:
        return
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == total
    ]
    outer = [name for name, _ in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    if len(outer) != 1:
        raise ValueError(
            f"model.num_layers={number}: the layers of {folder.path} ({config.model_type}) are not one list of "
            f"{total}: choose another model, or null (all layers)"
        )
    kept = kept_indices(total, number, which)
    parent_name, _, name = outer[0].rpartition(".")
    layers = dict(lists)[outer[0]]
    setattr(model.get_submodule(parent_name), name, nn.ModuleList(layers[index] for index in kept))
    _renumber(model.get_submodule(outer[0]))
    _cut_config(config, total, kept)


def _renumber(layers: nn.Module) -> None:
    """Give every module that knows the number of its layer the new one."""
    assert isinstance(layers, nn.ModuleList)
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(vars(module).get("layer_idx"), int):
                vars(module)["layer_idx"] = number


def _cut_config(config: Any, total: int, kept: list[int]) -> None:
    """Set the number of layers, and cut the lists that have a value for each layer (as `layer_types`)."""
    lists = {
        key: value
        for key, value in vars(config).items()
        if "layer" in key and isinstance(value, list) and len(value) == total
    }
    for key, value in lists.items():
        setattr(config, key, [value[index] for index in kept])
    setattr(config, COUNT, len(kept))
