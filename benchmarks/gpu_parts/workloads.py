"""What is trained and encoded: models with drawn weights and texts of natural lengths, without any download."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FIRST_TOKEN = 10  # those before it are special
LONGEST = 512


@dataclass(frozen=True)
class Workload:
    """A training step. `lists`: queries in it, each with `documents`, of which the first is relevant."""

    architecture: str  # bert, modernbert or qwen3, in the size of its base model (Qwen3: 0.6B)
    kind: str  # embedder (InfoNCE over the batch) or reranker (softmax over a list)
    lists: int
    documents: int
    token_budget: int
    kept_chunks: int = 10_000


WORKLOADS = {
    "embedder": Workload("bert", "embedder", lists=256, documents=2, token_budget=32_768),
    "reranker": Workload("modernbert", "reranker", lists=32, documents=16, token_budget=32_768),
    "llm_reranker": Workload("qwen3", "reranker", lists=16, documents=16, token_budget=16_384),
    "encode": Workload("bert", "embedder", lists=1024, documents=2, token_budget=32_768),
    "rerank": Workload("modernbert", "reranker", lists=8, documents=100, token_budget=32_768),
    "cached": Workload("bert", "embedder", lists=512, documents=2, token_budget=16_384, kept_chunks=0),
}
TOY_SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def of_size(name: str, toy: bool) -> Workload:
    """The workload of this name, or a tiny one of its form."""
    whole = WORKLOADS[name]
    if not toy:
        return whole
    return Workload(whole.architecture, whole.kind, 4, min(whole.documents, 4), 512, min(whole.kept_chunks, 10))


def make_config(architecture: str, toy: bool) -> Any:
    """The configuration of a model in transformers."""
    from transformers import BertConfig, ModernBertConfig, Qwen3Config

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    small = {"vocab_size": 1000, **TOY_SIZES} if toy else {}
    if architecture == "bert":
        return BertConfig(**small, pad_token_id=0)
    if architecture == "modernbert":
        return ModernBertConfig(**(small | ids))
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    sizes |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936}
    if toy:
        sizes |= small | {"num_key_value_heads": 2, "head_dim": 16}
    return Qwen3Config(**sizes, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def make_backbone(workload: Workload, device: torch.device, toy: bool, *, attention: str = "sdpa") -> Any:
    """The model of transformers with drawn weights in float32: without a head, or with one score."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    config = make_config(workload.architecture, toy)
    config.num_labels = 1
    torch.manual_seed(0)
    kind = AutoModel if workload.kind == "embedder" else AutoModelForSequenceClassification
    with device:
        model = kind.from_config(config, attn_implementation=attention, dtype=torch.float32)
    if (pooler := getattr(model, "pooler", None)) is not None and workload.kind == "embedder":
        pooler.requires_grad_(False)  # not used
    return model.to(device).train()


class Embedder(nn.Module):
    """Mean pooling and unit length."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        from models.pooling import pool

        tokens = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return {"embedding": nn.functional.normalize(pool(tokens, attention_mask, ["mean"]), dim=-1)}


class Reranker(nn.Module):
    """The score of a classifier's head."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"score": self.backbone(input_ids=input_ids, attention_mask=attention_mask).logits.squeeze(-1)}


def wrap(workload: Workload, backbone: nn.Module) -> nn.Module:
    """The model as plackett trains it."""
    return Embedder(backbone) if workload.kind == "embedder" else Reranker(backbone)


def draw_lengths(number: int, median: float, spread: float, highest: int, seed: int) -> np.ndarray:
    """Lengths of texts in tokens: log-normal, as those of queries and abstracts are."""
    lengths = np.random.default_rng(seed).lognormal(np.log(median), spread, size=number)
    return lengths.round().clip(4, highest).astype(np.int32)


def draw_rows(workload: Workload, seed: int, toy: bool) -> list[list[np.ndarray]]:
    """The token ids of each list. An embedder has the query first, a reranker query and document in one row."""
    highest = 48 if toy else LONGEST
    queries = draw_lengths(workload.lists, 14, 0.4, 16 if toy else 64, seed)
    documents = draw_lengths(workload.lists * workload.documents, 16 if toy else 200, 0.6, highest, seed + 1)
    draw = np.random.default_rng(seed + 2)
    lists = []
    for number, own in enumerate(documents.reshape(workload.lists, -1)):
        query = draw.integers(FIRST_TOKEN, 1000, size=queries[number])
        texts = [draw.integers(FIRST_TOKEN, 1000, size=length) for length in own]
        if workload.kind == "reranker":
            lists.append([np.concatenate([query, text])[:highest] for text in texts])
        else:
            lists.append([query, *texts])
    return lists


def model_flops(workload: Workload, model: nn.Module, lengths: np.ndarray, *, training: bool) -> float:
    """The floating-point operations on real tokens, without padding and without recomputation.

    A linear layer takes 2 per weight and token, attention 4 per token, visible token and value; a backward twice as
    many as its forward.
    """
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad)
    config: Any = model.backbone.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_dim
    squares = lengths.astype(np.float64) ** 2
    local = np.minimum(lengths, getattr(config, "local_attention", LONGEST)).astype(np.float64) * lengths
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    visible = sum((local if kind == "sliding_attention" else squares).sum() for kind in kinds)
    if workload.architecture == "qwen3":
        visible /= 2  # a token sees those before it
    return (3 if training else 1) * float(2 * linear * lengths.sum() + 4 * width * visible)


def stand_in_for_peft() -> None:
    """Let modules that name peft's classes be imported where it is not installed. No model here has adapters."""
    if "peft" in sys.modules or importlib.util.find_spec("peft") is not None:
        return
    for name in ("peft", "peft.tuners", "peft.tuners.tuners_utils", "peft.utils", "peft.utils.other"):
        module: Any = ModuleType(name)
        module.__path__ = []
        module.__getattr__ = lambda attribute: type(attribute, (), {})  # a class that nothing is an instance of
        sys.modules[name] = module
