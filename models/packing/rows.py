"""Packing: the rows of a chunk run through a transformer as one row without padding.

It happens at the border of transformers' base model (the encoder or decoder without a head), by hooks. All other code,
the model's own head included, sees padded rows [rows, tokens] on both sides.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PretrainedConfig, PreTrainedModel

from models.packing.attention import ATTENTIONS, PackedMask, Rule, attend, register
from models.packing.lengths import row_lengths

logger = logging.getLogger(__name__)

# Architectures whose packed rows are tested to be exact (tests/models/packing).
PACKABLE = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "mpnet", "modernbert", "llama", "mistral", "qwen2", "qwen3"}
)
ROW_FEATURES = ("input_ids", "token_type_ids", "position_ids")


@dataclass(frozen=True)
class Layout:
    """The places of a packed row's tokens in padded rows of shape [rows, tokens]."""

    shape: tuple[int, int]
    places: Tensor  # [packed tokens]: in the flattened padded rows
    starts: Tensor  # [rows]: the first token of each row, in the packed row

    def pack(self, padded: Tensor) -> Tensor:
        """[rows, tokens] -> [1, packed tokens]"""
        return padded.flatten()[self.places].unsqueeze(0)

    def unpack(self, packed: Tensor) -> Tensor:
        """[1, packed tokens, dim] -> [rows, tokens, dim], 0 at padding."""
        rows, tokens = self.shape
        empty = packed.new_zeros(rows * tokens, packed.shape[-1])
        return empty.index_copy(0, self.places, packed.squeeze(0)).unflatten(0, self.shape)

    def first_tokens(self, packed: Tensor) -> Tensor:
        """[1, packed tokens, dim] -> [rows, 1, dim]"""
        return packed[0, self.starts].unsqueeze(1)


class Packing:
    """The hooks of one base model. `layout` is that of the forward pass that is running; None: it is not packed.

    If it is not `enabled`, rows stay padded.
    """

    def __init__(self) -> None:
        self.enabled = True
        self.layout: Layout | None = None
        self.longest = 0  # tokens of the longest row

    def pack(
        self, base: PreTrainedModel, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Replace padded inputs by a packed row. Inputs without a mask, or with one for every two tokens (a list behind
        a shared prefix), or without values (a memory plan measures a model on fake tensors) stay as they are."""
        self.layout = None
        inputs = dict(zip(inspect.signature(type(base).forward).parameters, (None, *arguments), strict=False)) | options
        inputs.pop("self", None)
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        if ids is None or mask is None or mask.ndim != 2 or inputs.get("past_key_values") is not None:
            return None
        if not (self.enabled and _attention_packs(base.config)) or isinstance(mask, FakeTensor):
            return None
        register()  # again, if another has replaced the attention functions since
        lengths = row_lengths(mask)
        if min(lengths, default=0) == 0:
            return None
        if inputs.get("position_ids") is None:
            inputs["position_ids"] = _positions(base, ids)
        packed_mask = PackedMask.of(lengths, ids.device)
        places = torch.nonzero_static(mask.flatten().bool(), size=sum(lengths)).squeeze(1)
        layout = Layout((ids.shape[0], ids.shape[1]), places, packed_mask.boundaries[:-1])
        for name in ROW_FEATURES:
            if inputs.get(name) is not None:
                inputs[name] = layout.pack(inputs[name].expand(layout.shape))
        self.layout, self.longest = layout, packed_mask.longest
        return (), inputs | {"attention_mask": packed_mask}

    def unpack(self, base: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        """Give the hidden states of all rows, padded with 0."""
        layout, self.layout = self.layout, None
        if layout is not None:
            output.last_hidden_state = layout.unpack(output.last_hidden_state)
            if output.get("hidden_states") is not None:
                output.hidden_states = tuple(map(layout.unpack, output.hidden_states))
        return output

    def unpack_first(self, pooler: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give a pooler the first token of each row, which is all that it reads."""
        return None if self.layout is None else (self.layout.first_tokens(arguments[0]), *arguments[1:])


def reason_against(model: PreTrainedModel) -> str | None:
    """Why the rows of `model` cannot be packed, in words; None: they can."""
    config = model.config
    if not type(model).__module__.startswith("transformers."):
        return "it runs Python files of its folder"
    if getattr(config, "is_decoder", False):
        return "its configuration says is_decoder"
    if config.model_type not in PACKABLE:
        return f"{config.model_type} is not among the architectures that are packed ({', '.join(sorted(PACKABLE))})"
    if not _attention_packs(config):
        return f"attention={config._attn_implementation} cannot be packed ({' and '.join(ATTENTIONS)} can)"
    return None


def _attention_packs(config: PretrainedConfig) -> bool:
    """Whether the attention that is set reads a `PackedMask`. MPNet has only one attention, its own."""
    return config.model_type == "mpnet" or config._attn_implementation in ATTENTIONS


def request_packing(option: bool | None, models: Sequence[PreTrainedModel | PeftModel], source: str) -> list[Packing]:
    """Pack the rows of `models` as `model.packing` says; None: if all of them can be packed. Returns nothing if rows
    stay padded. `source`: the model's name, for messages.

    Raises ValueError, in one line, if packing is asked for and impossible.
    """
    plain: list[Any] = [model.get_base_model() if isinstance(model, PeftModel) else model for model in models]
    reason = next(filter(None, map(reason_against, plain)), None)
    if option and reason:
        raise ValueError(f"model.packing=true: {source}: {reason}: leave it out (null), and rows are padded")
    if option is not False and reason is None:
        return [pack_rows(model) for model in plain]
    if any(model.device.type == "meta" for model in plain):
        return []  # a model without weights is only checked and measured: the lines below follow with the weights
    if option is None:
        logger.warning("model %s: rows are padded, not packed: %s", source, reason)
    if any(model.config._attn_implementation == "flash_attention_2" for model in plain):
        logger.warning(
            "model.attention=flash_attention_2: its kernel removes and restores the padding in every layer, which is "
            "slower than sdpa on short texts: set model.packing=true%s, or model.attention=null",
            "" if reason is None else " (not possible here)",
        )
    return []


def pack_rows(model: PreTrainedModel) -> Packing:
    """Let the base model of `model` run padded rows as one packed row. Weights and configuration do not change; a deep
    copy packs too."""
    base: Any = model.base_model
    packing = Packing()
    base.register_forward_pre_hook(packing.pack, with_kwargs=True)
    base.register_forward_hook(packing.unpack)
    if isinstance(pooler := getattr(base, "pooler", None), nn.Module):
        pooler.register_forward_pre_hook(packing.unpack_first)
    if base.config.model_type == "mpnet":
        _pack_mpnet(base, packing)
    return packing


def _positions(base: PreTrainedModel, ids: Tensor) -> Tensor:
    """The positions [rows, tokens] that `base` gives to padded rows."""
    padding: int | None = getattr(getattr(base, "embeddings", None), "padding_idx", None)
    if padding is None:
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    real = ids.ne(padding).long()  # RoBERTa and MPNet count tokens that are not padding, from padding_idx + 1
    return real.cumsum(1) * real + padding


def _pack_mpnet(base: Any, packing: Packing) -> None:
    """MPNet does not use transformers' attention interface, and adds a bias by the distance of two tokens in the row.

    Only the methods of the instances are replaced; a deep copy gets methods of its own.
    """
    encoder = base.encoder
    encoder.compute_position_bias = partial(_mpnet_bias, encoder, packing)
    for layer in encoder.layer:
        layer.attention.attn.forward = partial(_mpnet_attention, layer.attention.attn)


def _mpnet_bias(encoder: Any, packing: Packing, hidden: Tensor, **options: Any) -> Tensor:
    """The bias of two tokens of a segment: [1, heads, longest, longest]."""
    if packing.layout is not None:
        hidden = hidden[:, : packing.longest]
    bias: Tensor = type(encoder).compute_position_bias(encoder, hidden, **options)
    return bias


def _mpnet_attention(
    module: Any,
    hidden: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    if not isinstance(attention_mask, PackedMask):
        result: tuple[Any, ...] = type(module).forward(module, hidden, attention_mask, position_bias, **options)
        return result
    heads = (module.num_attention_heads, module.attention_head_size)
    query, key, value = (layer(hidden).squeeze(0).unflatten(-1, heads) for layer in (module.q, module.k, module.v))
    rule = Rule(dropout=module.dropout.p if module.training else 0.0)
    attended = attend(module, query, key, value, attention_mask, rule, position_bias)
    return (module.o(attended.flatten(1).unsqueeze(0)),)
