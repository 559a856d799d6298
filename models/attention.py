"""Several prompts of one beginning in one sequence: who sees whom."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig

MASKED_ATTENTIONS = ("sdpa", "eager")  # that take a mask of their own for every query and key


def can_pack(config: PretrainedConfig) -> bool:
    """Whether every layer attends to all earlier tokens, by position ids and a mask alone."""
    if getattr(config, "alibi", False) or getattr(config, "attention_types", None):
        return False  # distances along the packed row (Falcon), a local mask of its own layers (GPT-Neo)
    layers = getattr(config, "layer_types", None)
    everywhere = set(layers) == {"full_attention"} if layers else not getattr(config, "sliding_window", None)
    return everywhere and config._attn_implementation in MASKED_ATTENTIONS


def pack_mask(segment_ids: Tensor, attention_mask: Tensor, attention: str) -> Tensor:
    """[packs, 1, tokens, tokens]: a token sees the earlier ones of the prefix (segment 0) and of its own segment. For
    sdpa: True if it does; for eager attention: what is added to its logits."""
    tokens = segment_ids.shape[1]
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=segment_ids.device).tril()
    keys = segment_ids.unsqueeze(1)
    seen = earlier & ((keys == 0) | (keys == segment_ids.unsqueeze(2))) & attention_mask.bool().unsqueeze(1)
    # Padding sees itself: a row that sees nothing would be NaN.
    seen = (seen | torch.eye(tokens, dtype=torch.bool, device=seen.device)).unsqueeze(1)
    if attention == "sdpa":
        return seen
    return torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, torch.finfo(torch.float32).min)
