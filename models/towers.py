"""The towers of a bi-encoder: a transformer, pooling, and linear layers, which embed rows of token ids."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.loading.activation import activation_named
from models.loading.folder import PICKLED, read_json
from models.pooling import pool
from models.tokenization import IS_QUERY, POOLED


class Dense(nn.Module):
    """The linear layer activation(W x + b) of sentence-transformers, in float32 under autocast too."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation

    @classmethod
    def load(cls, folder: Path, reads: str = "sentence_embedding") -> Dense:
        """Load the layer of embeddings, or (`reads` token_embeddings) of token vectors, which says so or says nothing.
        Raises ValueError if the folder holds another kind of layer."""
        config = read_json(folder / "config.json") or {}
        if config.get("use_residual") or config.get("module_input_name", reads) != reads:
            raise ValueError(f"{folder} is a Dense layer with a residual or not of {reads}: this is not supported")
        linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        if not (folder / "model.safetensors").is_file():
            raise ValueError(f"model {folder.parent}: {folder.name} lacks model.safetensors{PICKLED}")
        dense = cls(linear, activation_named(config.get("activation_function", ""), folder, default=nn.Tanh))
        dense.load_state_dict(load_file(folder / "model.safetensors"))
        return dense.float()

    def forward(self, embedding: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return self.activation(self.linear(embedding))


class Tower(nn.Module):
    """Computes embeddings that are not normalised: token embeddings of `backbone`, pooled by `modes`, through
    `dense`."""

    def __init__(
        self, backbone: PreTrainedModel | PeftModel, modes: list[str], dense: list[Dense], *, source: str
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.modes = modes
        self.dense = nn.Sequential(*dense)
        self.source = source  # the name or path that the backbone's weights came from

    @property
    def dimension(self) -> int:
        """The number of values of an embedding."""
        layers = [layer for layer in self.dense if isinstance(layer, Dense)]
        return layers[-1].linear.out_features if layers else self.backbone.config.hidden_size * len(self.modes)

    def forward(self, features: dict[str, Tensor], *, layers: bool) -> Tensor:
        """Compute embeddings [rows, 1, dim] float32 of the last layer; with `layers` [rows, layers, dim] of all layers,
        first to last."""
        own = {name: value for name, value in features.items() if name != POOLED}
        output = self.backbone(**own, output_hidden_states=layers)
        tokens = [*(output.hidden_states[1:-1] if layers else ()), output.last_hidden_state]
        mask, pooled = features["attention_mask"], features.get(POOLED)
        return torch.stack([self.dense(pool(layer, mask, self.modes, pooled)) for layer in tokens], dim=1)


class SeparateTowers(nn.Module):
    """Two towers: one for queries, one for documents."""

    def __init__(self, query: Tower, document: Tower) -> None:
        super().__init__()
        self.query = query
        self.document = document

    @classmethod
    def of(cls, tower: Tower) -> SeparateTowers:
        """Make two towers that start as copies of `tower`."""
        return cls(tower, copy.deepcopy(tower))

    def forward(self, features: dict[str, Tensor], *, layers: bool) -> Tensor:
        """Compute the same as `Tower`. Both towers always run and are part of the graph: a tower without a row runs one
        and multiplies it by zero. ZeRO-3 gathers weights in every forward and backward, so all ranks must run both."""
        is_query = features[IS_QUERY].any(1)
        total = None
        for tower, chosen in ((self.query, is_query), (self.document, ~is_query)):
            rows = chosen.nonzero().squeeze(1)
            weight = float(len(rows) > 0)
            rows = rows if len(rows) else rows.new_zeros(1)
            part = weight * tower({n: v[rows] for n, v in features.items() if n != IS_QUERY}, layers=layers)
            total = part.new_zeros(len(is_query), *part.shape[1:]) if total is None else total
            total = total.index_add(0, rows, part)
        assert total is not None
        return total


def towers_of(tower: Tower | SeparateTowers) -> dict[str, Tower]:
    """The towers by role, {"query": ..., "document": ...}, or {"": tower} if there is one."""
    return {"": tower} if isinstance(tower, Tower) else {"query": tower.query, "document": tower.document}
