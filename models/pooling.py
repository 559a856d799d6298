"""Pool token embeddings to one embedding per row, with the pooling modes of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Pooling = Callable[[Tensor, Tensor], Tensor]


def _first(tokens: Tensor, positions: Tensor) -> Tensor:
    return tokens[torch.arange(len(tokens), device=tokens.device), _pooled(positions).int().argmax(1)]


def _last(tokens: Tensor, positions: Tensor) -> Tensor:
    last = positions.shape[1] - 1 - _pooled(positions).flip(1).int().argmax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), last]


def _max(tokens: Tensor, positions: Tensor) -> Tensor:
    return tokens.masked_fill(~_pooled(positions)[:, :, None], torch.finfo(tokens.dtype).min).amax(1)


def _mean(tokens: Tensor, positions: Tensor) -> Tensor:
    return _sum(tokens, _pooled(positions)) / _pooled(positions).sum(1, keepdim=True)


def _mean_sqrt_length(tokens: Tensor, positions: Tensor) -> Tensor:
    return _sum(tokens, _pooled(positions)) / _pooled(positions).sum(1, keepdim=True).sqrt()


def _weighted_mean(tokens: Tensor, positions: Tensor) -> Tensor:
    """Use weights 1, 2, 3, ... over a row's tokens (SGPT, https://arxiv.org/abs/2202.08904)."""
    return _sum(tokens, positions) / positions.sum(1, keepdim=True)


def _sum(tokens: Tensor, weights: Tensor) -> Tensor:
    return (tokens * weights[:, :, None]).sum(1)


def _pooled(positions: Tensor) -> Tensor:
    return positions > 0


# name -> ([rows, tokens, dim], positions [rows, tokens]: 1, 2, ... and 0 at tokens left out) -> [rows, dim]
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


def pooling_config(modes: list[str]) -> dict[str, Any]:
    """The config.json of a Pooling module: old booleans, which every release reads, or the new name if the order of the
    modes is not that of the booleans."""
    if modes != [name for name in OLD_NAMES.values() if name in modes]:
        return {"pooling_mode": modes}
    return {old: name in modes for old, name in OLD_NAMES.items()}


def check_mode(mode: str, place: str = "pooling mode ") -> None:
    if mode not in POOLINGS:
        raise ValueError(f"{place}{mode}: choose {', '.join(POOLINGS)}")


def pool(tokens: Tensor, mask: Tensor, modes: list[str], pooled: Tensor | None = None) -> Tensor:
    """Pool [rows, tokens, dim] with mask [rows, tokens] (0: padding, on either side) to [rows, dim * len(modes)]
    float32.

    `pooled` [rows, tokens]: 1 at the tokens that are pooled, at least one per row; None: all but padding. The other
    tokens (those of a prompt) still count as positions.
    """
    positions = mask.cumsum(1) * (mask if pooled is None else mask * pooled)
    return torch.cat([POOLINGS[mode](tokens.float(), positions.float()) for mode in modes], dim=-1)
