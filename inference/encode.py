"""Texts to embeddings that are compared by their dot product, sharded over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.batch import TokenSequences
from inference.score import Forward, module_of, score_rows, tokenize_sharded


def tokenize_texts(tokenizer: Any, texts: Sequence[str], role: str, prompts: Sequence[str | None]) -> TokenSequences:
    """The rows of queries or documents (`role`), of which each rank tokenises its share; a prompt for each text,
    None: what the model says."""

    def tokenize(part: slice) -> dict[str, list[list[int]]]:
        encoded = []
        for prompt, pairs in groupby(zip(prompts[part], texts[part], strict=True), key=lambda pair: pair[0]):
            options = {} if prompt is None else {"prompt": prompt}
            encoded.append(tokenizer([text for _, text in pairs], role=role, **options))
        return {name: [row for group in encoded for row in group[name]] for name in encoded[0]}

    return tokenize_sharded(tokenize, len(texts))


def embed(forward: Forward, rows: TokenSequences, tokenizer: Any, token_budget: int, device: torch.device) -> Tensor:
    """[rows, dim] float32 on `device`, the same on all ranks: `forward(features)["embedding"]`."""
    return score_rows(forward, rows, tokenizer.padding, token_budget, device, key="embedding")


def comparable(embeddings: Tensor, forward: Forward, dim: int | None = None) -> Tensor:
    """The first `dim` dimensions (None: all), of unit length where the model compares by cosine."""
    cut = embeddings[:, :dim]
    return normalize(cut, dim=-1) if module_of(forward).similarity == "cosine" else cut
