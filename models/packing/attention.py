"""Attention within the segments of a packed row, behind transformers' attention interface.

A packed row has the tokens of several rows one after the other, without padding; each is a segment. Every token attends
to its own segment, causally or to both sides, within a sliding window if its layer has one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTIONS = ("sdpa", "flash_attention_2")  # implementations that packed rows run under
LARGEST_HEAD = 256  # dimension of a head: the limit of the varlen kernels
# How much a group of segments may grow by padding where SDPA runs. On a CPU a call costs little and padding much
# (docs/performance.md); on a GPU few calls count.
CPU_PADDING, GPU_PADDING = 1.0, 1.25


class PackedMask(Tensor):
    """The attention mask of a packed row: [1, 1, 1, segments + 1] int32, the tokens before each segment, and all.

    Models of transformers hand a mask with four axes to every layer as it is. So this one replaces the mask that they
    would make, and a layer that is recomputed in the backward gets it again.
    """

    known_lengths: tuple[int, ...] | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> PackedMask:
        """The mask of segments of these lengths."""
        ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        ends = (ends.pin_memory() if device.type == "cuda" else ends).to(device, non_blocking=True)
        mask = ends.view(1, 1, 1, -1).as_subclass(cls)
        mask.known_lengths = tuple(lengths)
        return mask

    @property
    def lengths(self) -> tuple[int, ...]:
        """The tokens of each segment, at least one."""
        if self.known_lengths is None:  # a copy, as DeepSpeed makes them of a layer's inputs
            self.known_lengths = tuple(self.boundaries.diff().tolist())
        return self.known_lengths

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
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    return attend(module, query, key, value, attention_mask, rule).unsqueeze(0), None


def register() -> None:
    """Let transformers' attention functions read a `PackedMask`, whoever has set them. Every other mask is left to
    them."""
    functions = AttentionInterface()
    for name in ATTENTIONS:
        if getattr(functions[name], "func", None) is not attention_forward:
            AttentionInterface.register(name, partial(attention_forward, functions[name]))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: PackedMask,
    rule: Rule,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention of packed rows: query [tokens, heads, dim], key and value [tokens, key heads, dim] -> [tokens, heads,
    dim]. `module`: the attention layer.

    `bias` [1, heads, longest, longest]: added to the logits of two tokens by their places in their segment.
    """
    query, key, value = _in_one_type(query, key, value)
    if bias is None and _has_varlen(query):
        if rule.dropout == 0.0:
            return _attend_by_torch(query, key, value, mask, rule)
        if _has_flash_attention():
            return _attend_by_flash_attention(query, key, value, mask, rule)
    return _attend_in_groups(module, query, key, value, mask, rule, bias)


def _in_one_type(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the type of autocast: only SDPA casts by itself."""
    device = tensors[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensors[-1].dtype
    return [tensor.to(dtype) for tensor in tensors]


def _has_varlen(query: Tensor) -> bool:
    """Whether kernels for segments of different length take this tensor."""
    dimension = query.shape[-1]
    fits = query.dtype in (torch.bfloat16, torch.float16) and dimension % 8 == 0 and dimension <= LARGEST_HEAD
    built = query.is_cuda and torch.backends.cuda.is_flash_attention_available()
    return built and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


@cache
def _has_flash_attention() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _attend_by_torch(query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, rule: Rule) -> Tensor:
    """PyTorch's kernel, which has no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = mask.boundaries, mask.longest
    options: dict[str, Any] = {
        "scale": rule.scale,
        "window_size": rule.limits(),
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    output: Any = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
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


def _attend_in_groups(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, rule: Rule, bias: Tensor | None
) -> Tensor:
    """The attention "sdpa" of transformers, one call for every group of segments of similar length, padded to the
    longest of them."""
    sdpa = AttentionInterface()["sdpa"]
    groups = grouped(mask.lengths, GPU_PADDING if query.is_cuda else CPU_PADDING)
    sizes = [sum(group) for group in groups]
    # `split` and not slices: the backward of a slice writes a tensor of the whole row.
    of_groups = list(zip(*(each.split(sizes) for each in (query, key, value)), strict=True))
    outputs, first = [], 0
    for group, parts in zip(groups, of_groups, strict=True):
        number, longest = len(group), max(group)
        lengths = mask.boundaries.diff()[first : first + number] if min(group) < longest else None
        place = None if lengths is None else _places(lengths, longest, len(parts[0]))
        rows = [_rows(part, place, number, longest).transpose(1, 2) for part in parts]
        seen, causal = _visible(rule, longest, lengths, bias, query)
        attended, _ = sdpa(module, *rows, seen, dropout=rule.dropout, scaling=rule.scale, is_causal=causal)
        flat = attended.flatten(0, 1)
        outputs.append(flat if place is None else flat[place])
        first += number
    return torch.cat(outputs)


@lru_cache(maxsize=1024)
def grouped(lengths: tuple[int, ...], padding: float) -> list[tuple[int, ...]]:
    """Divide lengths, in their order, into groups that grow at most by the factor `padding` if each is padded to its
    longest."""
    groups: list[list[int]] = []
    for length in lengths:
        group = [*groups[-1], length] if groups else []
        if group and len(group) * max(group) <= padding * sum(group):
            groups[-1].append(length)
        else:
            groups.append([length])
    return [tuple(group) for group in groups]


def _places(lengths: Tensor, longest: int, tokens: int) -> Tensor:
    """[tokens]: where the tokens of segments belong in their padded rows, which are flattened."""
    numbers = torch.arange(len(lengths), device=lengths.device)
    segment = torch.repeat_interleave(numbers, lengths, output_size=tokens)
    before = lengths.cumsum(0) - lengths
    return segment * longest + torch.arange(tokens, device=lengths.device) - before[segment]


def _rows(packed: Tensor, place: Tensor | None, number: int, longest: int) -> Tensor:
    """[tokens, heads, dim] -> [number, longest, heads, dim], 0 at padding; `place` None: there is none."""
    if place is None:
        return packed.unflatten(0, (number, longest))
    empty = packed.new_zeros(number * longest, *packed.shape[1:])
    return empty.index_copy(0, place, packed).unflatten(0, (number, longest))


def _visible(
    rule: Rule, longest: int, lengths: Tensor | None, bias: Tensor | None, query: Tensor
) -> tuple[Tensor | None, bool]:
    """The mask of a group, and whether attention is plainly causal; that also hides the padding on the right."""
    if rule.causal and bias is None and (rule.window is None or rule.window >= longest):
        return None, True
    seen = rule.visible(longest, query.device)
    if lengths is not None:
        tokens = torch.arange(longest, device=query.device)
        keys = (tokens < lengths.unsqueeze(1))[:, None, None, :]
        # Padding attends to itself: a query that attends to nothing would be NaN.
        seen = keys if seen is None else (seen & keys) | (tokens == tokens.unsqueeze(1))
    added = None if bias is None else bias[:, :, :longest, :longest]
    return _joined(seen, added, query.dtype), False


def _joined(seen: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One mask for SDPA: boolean, or added to the logits."""
    if bias is None or seen is None:
        return seen if bias is None else bias.to(dtype)
    return bias.to(dtype).masked_fill(~seen, torch.finfo(dtype).min)
