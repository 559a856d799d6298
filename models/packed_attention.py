"""Attention within the segments of a packed row, behind transformers' attention interface.

A packed row has the tokens of several rows one after the other, without padding; each is a segment. Every token attends
to its own segment, causally or to both sides, within a sliding window if its layer has one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTIONS = ("sdpa", "flash_attention_2")  # implementations that packed rows run under
LARGEST_HEAD = 256  # dimension of a head: the limit of the varlen kernels


class PackedMask(Tensor):
    """The attention mask of a packed row: [1, 1, 1, segments + 1] int32, the tokens before each segment, and all.

    Models of transformers hand a mask with four axes to every layer as it is. So this one replaces the mask that they
    would make, and a layer that is recomputed in the backward gets it again.
    """

    lengths: tuple[int, ...]  # the tokens of each segment, at least one

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> PackedMask:
        """The mask of segments of these lengths."""
        ends = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32, non_blocking=True)
        mask = ends.view(1, 1, 1, -1).as_subclass(cls)
        mask.lengths = tuple(lengths)
        return mask

    @property
    def longest(self) -> int:
        """The tokens of the longest segment."""
        return max(self.lengths)

    @property
    def boundaries(self) -> Tensor:
        """[segments + 1] int32: where each segment begins, and where the last one ends."""
        return self.as_subclass(Tensor).flatten()


@dataclass(frozen=True)
class Rule:
    """Which tokens of its segment a token attends to, and how.

    `window` None: all of them; w: those less than w tokens away. `scale` None: 1 / sqrt(dimension of a head).
    """

    causal: bool = False
    window: int | None = None
    dropout: float = 0.0
    scale: float | None = None

    def limits(self) -> tuple[int, int]:
        """The most tokens to the left and to the right that are attended to; -1: any number."""
        side = -1 if self.window is None else self.window - 1
        return side, 0 if self.causal else side

    def visible(self, tokens: int, device: torch.device) -> Tensor | None:
        """[tokens, tokens] bool: which keys each query of a segment attends to. None: all of them."""
        narrow = self.window is not None and self.window < tokens
        if not (self.causal or narrow):
            return None
        distance = torch.arange(tokens, device=device) - torch.arange(tokens, device=device).unsqueeze(1)
        left, right = self.limits()
        inside = distance <= right if right >= 0 else torch.ones_like(distance, dtype=torch.bool)
        return inside & (distance >= -left) if left >= 0 else inside


def attention_forward(
    unpacked: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *arguments: Any,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function of transformers: query, key, value [1, heads, tokens, dim] -> [1, tokens, heads, dim] if
    the mask is a `PackedMask`; else what `unpacked` does."""
    if not isinstance(attention_mask, PackedMask):
        result: tuple[Tensor, Tensor | None] = unpacked(
            module, query, key, value, attention_mask, *arguments, **options
        )
        return result
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    rule = Rule(
        # A configuration may turn a decoder into an encoder; its modules do not know of it.
        causal=bool(causal and getattr(getattr(module, "config", None), "is_causal", True)),
        window=options.get("sliding_window"),
        dropout=options.get("dropout", 0.0),
        scale=options.get("scaling"),
    )
    rows = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    return attend(*rows, attention_mask, rule).unsqueeze(0), None


@cache
def register() -> None:
    """Let transformers' attention functions read a `PackedMask`. Every other mask has the same result as before."""
    functions = AttentionInterface()
    for name in ATTENTIONS:
        AttentionInterface.register(name, partial(attention_forward, functions[name]))


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, rule: Rule, bias: Tensor | None = None
) -> Tensor:
    """Attention of packed rows: query [tokens, heads, dim], key and value [tokens, key heads, dim] -> [tokens, heads,
    dim].

    `bias` [1, heads, longest, longest]: added to the logits of two tokens by their places in their segment.
    """
    query, key, value = _in_one_type(query, key, value)
    if bias is None and _has_varlen(query):
        if rule.dropout == 0.0:
            return _attend_by_torch(query, key, value, mask, rule)
        if _has_flash_attention():
            return _attend_by_flash_attention(query, key, value, mask, rule)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    by_segment = _attend_padded if query.is_cuda else _attend_by_length
    return by_segment(query, key, value, mask, rule, bias)


def _in_one_type(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the type of autocast: only SDPA casts by itself."""
    device = tensors[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensors[-1].dtype
    return [tensor.to(dtype) for tensor in tensors]


def _has_varlen(query: Tensor) -> bool:
    """Whether kernels for segments of different length take this tensor."""
    dimension = query.shape[-1]
    fits = query.dtype in (torch.bfloat16, torch.float16) and dimension % 8 == 0 and dimension <= LARGEST_HEAD
    return query.is_cuda and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


@cache
def _has_flash_attention() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _attend_by_torch(query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, rule: Rule) -> Tensor:
    """PyTorch's kernel, which has no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = mask.boundaries, mask.longest
    options = {"scale": rule.scale, "window_size": rule.limits(), "enable_gqa": query.shape[1] != key.shape[1]}
    output: Tensor = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
    return output


def _attend_by_flash_attention(query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, rule: Rule) -> Tensor:
    """The kernel of the package flash-attn, which has dropout."""
    varlen: Any = importlib.import_module("flash_attn").flash_attn_varlen_func
    ends, longest = mask.boundaries, mask.longest
    left, right = rule.limits()
    output: Tensor = varlen(
        *(query, key, value, ends, ends, longest, longest),
        dropout_p=rule.dropout,
        softmax_scale=rule.scale,
        causal=rule.causal,
        window_size=(left, right),
    )
    return output


def _attend_padded(
    query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, rule: Rule, bias: Tensor | None
) -> Tensor:
    """One call for all segments, padded to the longest: for GPUs, where the number of calls counts."""
    longest, device, ends = mask.longest, query.device, mask.boundaries
    lengths, number = ends.diff(), len(mask.lengths)
    segment = torch.repeat_interleave(torch.arange(number, device=device), lengths, output_size=len(query))
    place = segment * longest + torch.arange(len(query), device=device) - ends[segment]
    rows = [
        each.new_zeros(number * longest, *each.shape[1:]).index_copy(0, place, each).unflatten(0, (number, longest))
        for each in (query, key, value)
    ]
    keys = (torch.arange(longest, device=device) < lengths.unsqueeze(1))[:, None, None, :]
    visible = rule.visible(longest, device)
    # Padding attends to itself: a query that attends to nothing would be NaN.
    seen = keys if visible is None else (visible & keys) | torch.eye(longest, dtype=torch.bool, device=device)
    output = scaled_dot_product_attention(
        *(each.transpose(1, 2) for each in rows),
        attn_mask=_joined(seen, bias, query.dtype),
        dropout_p=rule.dropout,
        scale=rule.scale,
    )
    return output.transpose(1, 2).flatten(0, 1)[place]


def _attend_by_length(
    query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, rule: Rule, bias: Tensor | None
) -> Tensor:
    """One call for every run of segments of equal length: for CPUs, where padded keys cost time and a call little."""
    runs = [(length, len(list(same))) for length, same in groupby(mask.lengths)]
    sizes = [length * count for length, count in runs]
    outputs = []
    # `split` and not slices: the backward of a slice writes a tensor of the whole row.
    for (length, count), *parts in zip(runs, *(each.split(sizes) for each in (query, key, value)), strict=True):
        rows = [part.unflatten(0, (count, length)).transpose(1, 2) for part in parts]
        visible = rule.visible(length, query.device)
        added = None if bias is None else bias[:, :, :length, :length]
        plainly_causal = rule.causal and bias is None and (rule.window is None or rule.window >= length)
        output = scaled_dot_product_attention(
            *rows,
            attn_mask=None if plainly_causal else _joined(visible, added, query.dtype),
            dropout_p=rule.dropout,
            is_causal=plainly_causal,
            scale=rule.scale,
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def _joined(seen: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One mask for SDPA: boolean, or added to the logits."""
    if bias is None or seen is None:
        return seen if bias is None else bias.to(dtype)
    return bias.to(dtype).masked_fill(~seen, torch.finfo(dtype).min)
