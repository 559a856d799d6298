"""The towers of a bi-encoder, which embed rows of token ids: vectors of a text, and linear layers after them.

`Tower` makes the vectors by a transformer and pooling; `models.static.tower.StaticTower` by a table of token vectors.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.capabilities import Part
from models.export.folder import write_json
from models.export.texts import write_transformer
from models.loading.activation import activation_named
from models.loading.folder import PICKLED, read_json
from models.lora import parts_of
from models.pooling import pool, pooling_config
from models.tokenization import IS_QUERY, POOLED, TextTokenizer


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


class TextTower(nn.Module, ABC):
    """Computes embeddings that are not normalised: vectors of texts, through the linear layers `dense`."""

    outputs: ClassVar[frozenset[str]] = frozenset({"embedding"})  # of a model with such towers
    modes: list[str]  # how the vectors of tokens become one: a name, or several that are joined
    source: str  # the name or path that the weights came from

    def __init__(self, name: str, first: nn.Module, dense: list[Dense], *, modes: list[str], source: str) -> None:
        """Make a tower of the module `first`, an attribute of that `name`, and `dense`."""
        super().__init__()
        self.add_module(name, first)
        self.dense = nn.Sequential(*dense)
        self.modes = modes
        self.source = source

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of values of a vector before the linear layers."""

    @property
    def dimension(self) -> int:
        """The number of values of an embedding."""
        layers = [layer for layer in self.dense if isinstance(layer, Dense)]
        return layers[-1].linear.out_features if layers else self.width

    @property
    def transformer(self) -> PreTrainedModel | PeftModel | None:
        """The transformer that reads the tokens; None: there is none."""
        return None

    @abstractmethod
    def pooled(self, features: dict[str, Tensor], *, layers: bool) -> list[Tensor]:
        """The vectors [rows, width] float32 of the last layer; with `layers` of all layers, first to last."""

    def forward(self, features: dict[str, Tensor], *, layers: bool) -> Tensor:
        """Compute embeddings [rows, 1, dim] float32 of the last layer; with `layers` [rows, layers, dim] of all layers,
        first to last."""
        return torch.stack([self.dense(vectors) for vectors in self.pooled(features, layers=layers)], dim=1)

    def parts(self, role: str) -> list[Part]:
        """The parts of the tower of that role; "" if it is the only one. One may have no weights."""
        return [*self.first_parts(role), Part("projection", tuple(self.dense.parameters()), role)]

    @abstractmethod
    def first_parts(self, role: str) -> list[Part]:
        """The parts before the linear layers."""

    @abstractmethod
    def write(
        self, folder: Path, prefix: str, tokenizer: TextTokenizer, *, adapter_only: bool
    ) -> list[tuple[str, str]]:
        """Write the modules of sentence-transformers before the linear layers, with the tokenizer, below `folder`;
        with `prefix` all are in subfolders whose names begin with it. Returns (path, class) in order."""


class Tower(TextTower):
    """Embeds by token embeddings of `backbone`, pooled by `modes`."""

    outputs = frozenset({"embedding", "layers"})
    backbone: PreTrainedModel | PeftModel

    def __init__(
        self, backbone: PreTrainedModel | PeftModel, modes: list[str], dense: list[Dense], *, source: str
    ) -> None:
        super().__init__("backbone", backbone, dense, modes=modes, source=source)

    @property
    def transformer(self) -> PreTrainedModel | PeftModel:
        return self.backbone

    @property
    def width(self) -> int:
        hidden: int = self.backbone.config.hidden_size
        return hidden * len(self.modes)

    def pooled(self, features: dict[str, Tensor], *, layers: bool) -> list[Tensor]:
        own = {name: value for name, value in features.items() if name != POOLED}
        output = self.backbone(**own, output_hidden_states=layers)
        tokens = [*(output.hidden_states[1:-1] if layers else ()), output.last_hidden_state]
        mask, chosen = features["attention_mask"], features.get(POOLED)
        return [pool(layer, mask, self.modes, chosen) for layer in tokens]

    def first_parts(self, role: str) -> list[Part]:
        return parts_of(self.backbone, tower=role)

    def write(
        self, folder: Path, prefix: str, tokenizer: TextTokenizer, *, adapter_only: bool
    ) -> list[tuple[str, str]]:
        path = f"{prefix}0_Transformer" if prefix else ""
        modules = [(path, "Transformer"), (f"{prefix}1_Pooling", "Pooling")]
        write_transformer(self.backbone, tokenizer, folder / path, source=self.source, adapter_only=adapter_only)
        hidden = self.backbone.config.hidden_size
        pooling = pooling_config(self.modes) | {"include_prompt": tokenizer.include_prompt}
        write_json(folder / modules[1][0] / "config.json", {"word_embedding_dimension": hidden} | pooling)
        return modules


class SeparateTowers(nn.Module):
    """Two towers: one for queries, one for documents."""

    def __init__(self, query: TextTower, document: TextTower) -> None:
        super().__init__()
        self.query = query
        self.document = document

    @classmethod
    def of(cls, tower: TextTower) -> SeparateTowers:
        """Make two towers that start as copies of `tower`."""
        return cls(tower, copy.deepcopy(tower))

    def forward(self, features: dict[str, Tensor], *, layers: bool) -> Tensor:
        """Compute the same as `TextTower`. Both towers always run and are part of the graph: a tower without a row runs
        one and multiplies it by zero. ZeRO-3 gathers weights in every forward and backward, so all ranks must run
        both."""
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


def towers_of(tower: TextTower | SeparateTowers) -> dict[str, TextTower]:
    """The towers by role, {"query": ..., "document": ...}, or {"": tower} if there is one."""
    return {"": tower} if isinstance(tower, TextTower) else {"query": tower.query, "document": tower.document}
