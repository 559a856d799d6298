"""From token ids to one embedding per row: a transformer, its pooling, and linear layers after it."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.pooling import pool

# Token-level features of the tokenizer that are not the transformer's.
POOLED = "pooled"  # 1 at the tokens that are pooled (without it: all but padding)
IS_QUERY = "is_query"  # 1 at the tokens of queries, for separate towers


class Dense(nn.Module):
    """activation(W x + b) of an embedding, in float32 under autocast too."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation

    def forward(self, embedding: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return self.activation(self.linear(embedding))


class Tower(nn.Module):
    """Embeddings of texts, not normalised: token embeddings of `backbone`, pooled by `modes`, through `dense`."""

    def __init__(self, backbone: PreTrainedModel | PeftModel, modes: list[str], dense: list[Dense]) -> None:
        super().__init__()
        self.backbone = backbone
        self.modes = modes
        self.dense = nn.Sequential(*dense)

    def forward(self, features: dict[str, Tensor], *, layers: bool) -> list[Tensor]:
        """[rows, dim] float32 of the last layer, and with `layers` of the earlier ones before it, first to last."""
        features = dict(features)
        pooled = features.pop(POOLED, features["attention_mask"])
        output = self.backbone(**features, output_hidden_states=layers)
        tokens = [*(output.hidden_states[1:-1] if layers else ()), output.last_hidden_state]
        return [self.dense(pool(layer, pooled, self.modes)) for layer in tokens]
