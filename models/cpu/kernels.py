"""Puts the CPU's own dropout, attention, embeddings and linear layers into models of transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from models.cpu.attention import attention_with_dropout
from models.cpu.embedding import RowEmbedding
from models.cpu.linear import OneDnnLinear, prefers_onednn
from models.cpu.word_dropout import WordDropout, uses_words

_attention = SimpleNamespace(is_own=True)  # whether `sdpa_attention` uses its own kernel

PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    WordDropout: nn.Dropout,
    RowEmbedding: nn.Embedding,
    OneDnnLinear: nn.Linear,
}


def use_cpu_kernels(model: nn.Module) -> None:
    """Let dropout, attention with dropout, embeddings and linear layers of `model` run fast on the CPU. Only the
    classes of its modules change, so weights, configuration and exports do not; on a GPU they do what they did."""
    _attention.is_own = True
    if AttentionInterface()["sdpa"] is sdpa_attention_forward:  # else it is set, perhaps below another function
        AttentionInterface.register("sdpa", sdpa_attention)
    changed: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: WordDropout, nn.Embedding: RowEmbedding}
    if prefers_onednn():
        changed[nn.Linear] = OneDnnLinear
    for module in model.modules():
        module.__class__ = changed.get(type(module), type(module))


def use_torch_kernels(model: nn.Module) -> None:
    """Let `model`, and the attention of all models, run on torch's kernels, for comparison."""
    _attention.is_own = False
    for module in model.modules():
        module.__class__ = plain_class(module)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module as it was loaded."""
    return PLAIN.get(type(module), type(module))


def sdpa_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' "sdpa" attention, with `attention_with_dropout` in the place of torch's slow one on the CPU."""
    special = any(options.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    learned = attention_mask is not None and attention_mask.requires_grad  # it would get no gradient
    is_own = _attention.is_own and key.shape == value.shape and uses_words(query)
    if dropout in (0.0, 1.0) or special or learned or not is_own:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **options)
    groups = getattr(module, "num_key_value_groups", 1)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    exact = torch.promote_types(query.dtype, torch.float32)  # softmax, and sums of many products
    output = attention_with_dropout(
        query.to(exact),
        repeat_kv(key, groups).to(exact),
        repeat_kv(value, groups).to(exact),
        attention_mask,
        dropout,
        scale=scaling,
        is_causal=bool(causal) and attention_mask is None and query.shape[2] > 1,
    )
    return output.transpose(1, 2).to(query.dtype).contiguous(), None
