"""The attention of packed prompts: several prompts with a common prefix in one row.

In a pack of n prompts of which p tokens are common, attention over the whole row under a mask takes (p + sum of all own
tokens)^2 products, most of them masked. `pack_attention` takes only those that count: the prefix by itself, and the own
tokens of each prompt with the prefix and themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

MASKED_ATTENTIONS = ("sdpa", "eager")  # implementations that take a mask for every query and key
LAYOUT = "pack_layout"  # the argument by which models hand the layout of a chunk to their attention


def can_pack(config: PretrainedConfig) -> bool:
    """Whether every layer attends to all earlier tokens, controlled by position ids and a mask only."""
    return reason_against_packs(config) is None


def reason_against_packs(config: PretrainedConfig) -> str | None:
    """Why prompts cannot be packed, in words; None: they can."""
    distances = getattr(config, "alibi", False) or getattr(config, "relative_attention_num_buckets", None)
    if distances:  # Falcon, T5
        return f"{config.model_type} counts distances along a row"
    layers = getattr(config, "layer_types", None)
    everywhere = set(layers) == {"full_attention"} if layers else not getattr(config, "sliding_window", None)
    if not everywhere or getattr(config, "attention_types", None):  # GPT-Neo
        return "not all of its layers attend to all earlier tokens"
    if config._attn_implementation not in MASKED_ATTENTIONS:
        return f"model.attention={config._attn_implementation} takes no mask ({' and '.join(MASKED_ATTENTIONS)} do)"
    return None


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


@dataclass(frozen=True)
class PackLayout:
    """The places of the tokens of packs [packs, tokens] in attention. Tokens are counted over the flattened packs.

    `own` [prompts, most own tokens]: the own tokens of each prompt. `seen` [prompts, longest prefix + most own tokens]:
    the tokens that these attend to, the prefix and then themselves; -1: none. `places` [packs, tokens]: the place of
    each token in what attention gives, all prefixes [packs * longest prefix] and then `own`, flattened.
    """

    own: Tensor
    seen: Tensor
    places: Tensor

    @property
    def prefix(self) -> int:
        """The tokens of the longest prefix."""
        return self.seen.shape[1] - self.own.shape[1]

    @cached_property
    def mask(self) -> Tensor:
        """The mask [prompts, 1, own tokens, seen tokens]: all of the prefix, and own tokens up to the query. The first
        own token is there in every prompt, so no query attends to nothing."""
        causal = torch.ones(self.own.shape[1], self.seen.shape[1], dtype=torch.bool, device=self.seen.device)
        return ((self.seen >= 0).unsqueeze(1) & causal.tril(self.prefix)).unsqueeze(1)


def layout_options(decoder: nn.Module, attention: str, layout: PackLayout) -> dict[str, PackLayout]:
    """The arguments by which `decoder` hands the layout to its attention; none if it does not take any. A model that
    takes them and does not hand them on uses its mask: the result is the same."""
    takes_any = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(decoder.forward).parameters.values())
    if attention != "sdpa" or not takes_any:
        return {}
    register()
    return {LAYOUT: layout}


@cache
def register() -> None:
    """Let transformers' sdpa attention read a `PackLayout`. Without one its result is the same as before."""
    AttentionInterface.register("sdpa", partial(_attention_forward, AttentionInterface()["sdpa"]))


def _attention_forward(
    unpacked: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *arguments: Any,
    **options: Any,
) -> Any:
    """An attention function of transformers: query, key and value [packs, heads, tokens, dim] -> ([packs, tokens,
    heads, dim], no weights)."""
    layout: PackLayout | None = options.pop(LAYOUT, None)
    if layout is None:
        return unpacked(module, query, key, value, attention_mask, *arguments, **options)
    dropout, scale = options.get("dropout", 0.0), options.get("scaling")
    return pack_attention(query, key, value, layout, dropout=dropout, scale=scale), None


def pack_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: PackLayout, *, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """The attention of packs: query [packs, heads, tokens, dim], key and value [packs, key heads, tokens, dim] ->
    [packs, tokens, heads, dim]. Of padding it is any number."""
    attend = partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=scale)
    groups = query.shape[1] // key.shape[1]
    outputs = []
    if layout.prefix:
        rows = (query, key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1))
        outputs.append(attend(*(each[:, :, : layout.prefix] for each in rows), is_causal=True))
    keys, values = (_take(each, layout.seen).repeat_interleave(groups, dim=1) for each in (key, value))
    outputs.append(attend(_take(query, layout.own), keys, values, attn_mask=layout.mask))
    flat = torch.cat([output.transpose(1, 2).flatten(2).flatten(0, 1) for output in outputs])
    return F.embedding(layout.places, flat).unflatten(-1, (query.shape[1], value.shape[-1]))


def _take(values: Tensor, tokens: Tensor) -> Tensor:
    """[packs, heads, tokens, dim] -> [prompts, heads, chosen tokens, dim]. It is an embedding: the backward of an index
    is several times slower on a CPU."""
    flat = values.transpose(1, 2).flatten(2).flatten(0, 1)
    return F.embedding(tokens.clamp(min=0), flat).unflatten(-1, (values.shape[1], values.shape[3])).transpose(1, 2)
