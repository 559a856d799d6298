"""From token embeddings to one embedding per row: the pooling modes of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Pooling = Callable[[Tensor, Tensor], Tensor]


def _first(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens[torch.arange(len(tokens), device=tokens.device), mask.int().argmax(1)]


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), last]


def _max(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(mask[:, :, None] == 0, torch.finfo(tokens.dtype).min).amax(1)


def _sum(tokens: Tensor, weights: Tensor) -> Tensor:
    return (tokens * weights[:, :, None]).sum(1)


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    return _sum(tokens, mask) / mask.sum(1, keepdim=True)


def _mean_sqrt_length(tokens: Tensor, mask: Tensor) -> Tensor:
    return _sum(tokens, mask) / mask.sum(1, keepdim=True).sqrt()


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Weights 1, 2, 3, ... over a row's tokens (SGPT, https://arxiv.org/abs/2202.08904)."""
    weights = mask.cumsum(1) * mask
    return _sum(tokens, weights) / weights.sum(1, keepdim=True)


# name -> ([rows, tokens, dim], mask [rows, tokens] of 0 and 1) -> [rows, dim]; padding on either side
POOLINGS: dict[str, Pooling] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_length,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
# The booleans of old folders, in the order in which sentence-transformers concatenates them.
OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """The modes of a Pooling module's config.json, old or new; several are concatenated."""
    modes = config.get("pooling_mode") or [name for old, name in OLD_NAMES.items() if config.get(old)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    for mode in modes:
        check_mode(mode)
    return modes


def check_mode(mode: str, place: str = "pooling mode ") -> None:
    if mode not in POOLINGS:
        raise ValueError(f"{place}{mode}: choose {', '.join(POOLINGS)}")


def pool(tokens: Tensor, mask: Tensor, modes: list[str]) -> Tensor:
    """[rows, tokens, dim], mask [rows, tokens] -> [rows, dim * len(modes)] float32."""
    tokens, mask = tokens.float(), mask.float()
    return torch.cat([POOLINGS[mode](tokens, mask) for mode in modes], dim=-1)
