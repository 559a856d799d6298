"""The attention mask of packed prompts: several prompts with a common prefix in one sequence."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig

MASKED_ATTENTIONS = ("sdpa", "eager")  # implementations that take a mask for every query and key


def can_pack(config: PretrainedConfig) -> bool:
    """Whether every layer attends to all earlier tokens, controlled by position ids and a mask only."""
    distances = getattr(config, "alibi", False) or getattr(config, "relative_attention_num_buckets", None)
    if distances or getattr(config, "attention_types", None):
        return False  # Falcon and T5 use distances along the packed row, GPT-Neo has layers with a local mask
    layers = getattr(config, "layer_types", None)
    everywhere = set(layers) == {"full_attention"} if layers else not getattr(config, "sliding_window", None)
    return everywhere and config._attn_implementation in MASKED_ATTENTIONS


def pack_mask(segment_ids: Tensor, attention_mask: Tensor, attention: str) -> Tensor:
    """The mask [packs, 1, tokens, tokens]. A token attends to earlier tokens of the prefix (segment 0) and of its own
    segment. For sdpa the mask is boolean; for eager attention it is added to the logits."""
    tokens = segment_ids.shape[1]
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=segment_ids.device).tril()
    keys = segment_ids.unsqueeze(1)
    visible = earlier & ((keys == 0) | (keys == segment_ids.unsqueeze(2))) & attention_mask.bool().unsqueeze(1)
    # Padding attends to itself: a row that attends to nothing would be NaN.
    visible = (visible | torch.eye(tokens, dtype=torch.bool, device=visible.device)).unsqueeze(1)
    if attention == "sdpa":
        return visible
    return torch.zeros_like(visible, dtype=torch.float32).masked_fill(~visible, torch.finfo(torch.float32).min)
