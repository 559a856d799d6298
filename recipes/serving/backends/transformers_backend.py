"""Plain transformers, as the model card shows it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from models.loading.backbone import embedding_class, quiet
from models.loading.folder import ModelFolder
from recipes.serving.backends.plain import Forward, accepted, embed_texts, score_pairs, score_prompts
from recipes.serving.contract import Export, Replay


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay by transformers' automatic classes."""
    with quiet(), torch.no_grad():
        if export.golden.layout == "texts":
            return {"": embed_texts(export, _encoder)}
        if export.is_prompted:
            model = AutoModelForCausalLM.from_pretrained(export.path, dtype=torch.float32).eval()
            return {"": score_prompts(export, _logits(model))}
        model = AutoModelForSequenceClassification.from_pretrained(export.path, dtype=torch.float32).eval()
        return {"": score_pairs(export, _logits(model))}


def _logits(model: PreTrainedModel) -> Forward:
    return lambda features: model(**accepted(model, features)).logits.float()


def _encoder(route: ModelFolder) -> Forward:
    config = AutoConfig.from_pretrained(route.backbone)
    model = embedding_class(config).from_pretrained(route.backbone, dtype=torch.float32).eval()

    def forward(features: Mapping[str, Tensor]) -> Tensor:
        hidden: Tensor = model(**accepted(model, features)).last_hidden_state
        return hidden

    return forward
