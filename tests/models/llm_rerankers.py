"""What the tests of LLM rerankers share: pairs of mixed length, padding on either side, plain transformers' logits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models.llm_reranker import LLMReranker, LLMRerankerConfig

QUERIES = ["what is python?", "Green apple.", "rank the list of documents", "no"]
DOCUMENTS = [
    "a red apple",
    "python returns the value of a list. " * 30,
    "so.",
    "Why? Train to rank documents, in python!",
]


def build(folder: Path, template: str | None = None, seed: int = 0, **options) -> LLMReranker:
    return LLMRerankerConfig(str(folder), template=template, **({"max_length": 256} | options)).build(seed)


def padded(rows: list[list[int]], *, side: str = "right", extra: int = 0, pad: int = 0) -> dict[str, Tensor]:
    width = max(map(len, rows)) + extra
    fills = [[pad] * (width - len(row)) for row in rows]
    real = [[1] * len(row) for row in rows]
    none = [[0] * len(fill) for fill in fills]
    if side == "left":
        return {
            "input_ids": torch.tensor([fill + row for fill, row in zip(fills, rows, strict=True)]),
            "attention_mask": torch.tensor([zero + one for zero, one in zip(none, real, strict=True)]),
        }
    return {
        "input_ids": torch.tensor([row + fill for fill, row in zip(fills, rows, strict=True)]),
        "attention_mask": torch.tensor([one + zero for zero, one in zip(none, real, strict=True)]),
    }


def score(model: LLMReranker, queries: list[str] = QUERIES, documents: list[str] = DOCUMENTS, **options) -> Tensor:
    with torch.no_grad():
        return model(**padded(model.tokenizer(queries, documents)["input_ids"], **options))["score"]


def logits_at_end(folder: Path, rows: list[list[int]]) -> Tensor:
    """[rows, vocabulary] float32 of the folder's plain causal language model, each row by itself."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])
