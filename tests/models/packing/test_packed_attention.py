"""Attention within segments, by every implementation, against attention with a mask over the whole packed row."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from models.packing import attention as packed_attention
from models.packing.attention import PackedMask, Rule, grouped

LENGTHS = (9, 9, 9, 8, 7, 3, 1, 1)
RULES = [
    *(Rule(causal=causal, window=window) for causal, window in product((False, True), (None, 1, 3, 9))),
    Rule(scale=0.7),
]


def tensors(key_heads: int = 4, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(sum(LENGTHS), heads, 16) for heads in (4, key_heads, key_heads)]
    return [torch.randn(shape, generator=draw).to(device, dtype).requires_grad_() for shape in shapes]


def expected(rows: list[Tensor], rule: Rule, bias: Tensor | None = None) -> Tensor:
    """Attention by its definition, over all pairs of tokens of the packed row."""
    query, key, value = (each.transpose(0, 1).float() for each in rows)
    key, value = (each.repeat_interleave(len(query) // len(each), dim=0) for each in (key, value))
    segment = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)).to(query.device)
    place = torch.cat([torch.arange(length) for length in LENGTHS]).to(query.device)
    distance = place - place.unsqueeze(1)
    seen = segment == segment.unsqueeze(1)
    if rule.causal:
        seen &= distance <= 0
    if rule.window is not None:
        seen &= distance.abs() < rule.window
    logits = query @ key.transpose(1, 2) * (rule.scale or query.shape[-1] ** -0.5)
    if bias is not None:
        logits = logits + bias[0][:, place.unsqueeze(1), place]
    return (logits.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(0, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, *arguments: Any) -> Tensor:
    layer = nn.Module()
    layer.num_key_value_groups = query.shape[1] // key.shape[1]
    return packed_attention.attend(layer, query, key, value, *arguments)


def assert_equal(rows: list[Tensor], rule: Rule, bias: Tensor | None = None, tolerance: float = 1e-5) -> None:
    mask = PackedMask.of(LENGTHS, rows[0].device)
    weights = torch.randn(sum(LENGTHS), 4, 16, generator=torch.Generator().manual_seed(1)).to(rows[0].device)
    leaves = [*rows, *([] if bias is None else [bias])]
    right = expected(rows, rule, bias)
    gradients = torch.autograd.grad((right * weights).sum(), leaves)
    found = attend(*rows, mask, rule, bias)
    assert found.dtype == rows[0].dtype
    torch.testing.assert_close(found.float(), right, atol=tolerance, rtol=0)
    for one, other in zip(torch.autograd.grad((found.float() * weights).sum(), leaves), gradients, strict=True):
        torch.testing.assert_close(one.float(), other.float(), atol=tolerance * 4, rtol=0)


@pytest.mark.parametrize("padding", [1.0, 1.25, 100.0])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_attention_stays_in_the_segment(rule: Rule, padding: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "CPU_PADDING", padding)
    for key_heads in (4, 2, 1):
        assert_equal(tensors(key_heads), rule)
    assert_equal(tensors(), rule, torch.randn(1, 4, 9, 9, requires_grad=True))


def test_a_copy_of_the_mask_has_its_lengths() -> None:
    mask = PackedMask.of(LENGTHS, torch.device("cpu"))
    assert mask.detach().lengths == mask.clone().lengths == LENGTHS


def test_an_attention_that_another_library_sets_later_is_wrapped_too() -> None:
    called = []
    packed_attention.register()
    before = AttentionInterface()["sdpa"]
    try:
        AttentionInterface.register("sdpa", lambda *rows, **options: called.append(1) or before(*rows, **options))
        packed_attention.register()
        packed_attention.register()
        assert_equal(tensors(), Rule())
        assert len(called) == len(grouped(LENGTHS, 1.0))
    finally:
        AttentionInterface.register("sdpa", before)


def test_groups_hold_little_padding() -> None:
    assert grouped(LENGTHS, 1.0) == [(9, 9, 9), (8,), (7,), (3,), (1, 1)]
    assert grouped(LENGTHS, 1.25) == [(9, 9, 9, 8, 7, 3), (1, 1)]
    assert grouped(LENGTHS, 100.0) == [LENGTHS]
    assert grouped((512, *[5] * 100), 1.25) == [(512,), (5,) * 100]


def test_other_masks_are_read_as_before(tiny_bert_dir: Any) -> None:
    from transformers import AutoModel
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plain = AutoModel.from_pretrained(tiny_bert_dir, attn_implementation="eager").eval()
    packed_attention.register()
    model = AutoModel.from_pretrained(tiny_bert_dir, attn_implementation="sdpa").eval()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"].func is packed_attention.attention_forward
    ids, mask = torch.randint(5, 60, (3, 7)), torch.ones(3, 7, dtype=torch.long).tril(4)
    for given in (mask, None):
        found, right = (each(ids, attention_mask=given).last_hidden_state for each in (model, plain))
        torch.testing.assert_close(found, right, atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_attention_stays_in_the_segment_on_a_gpu(rule: Rule, dtype: torch.dtype) -> None:
    for key_heads in (4, 1):
        rows = tensors(key_heads, dtype, "cuda")
        assert_equal(rows, rule, tolerance=1e-4 if dtype is torch.float32 else 3e-2)


@pytest.mark.gpu
def test_bf16_runs_on_the_kernel_for_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    kernel = packed_attention._attend_by_torch
    monkeypatch.setattr(packed_attention, "_attend_by_torch", lambda *rows: called.append(1) or kernel(*rows))
    mask = PackedMask.of(LENGTHS, torch.device("cuda"))
    with torch.autocast("cuda", torch.bfloat16):  # casts, as of a query that a norm has made float32
        assert attend(*tensors(device="cuda"), mask, Rule()).dtype == torch.bfloat16
    assert called == [1]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_dropout_on_a_gpu_keeps_the_mean(dtype: torch.dtype) -> None:
    rows, mask = tensors(dtype=dtype, device="cuda"), PackedMask.of(LENGTHS, torch.device("cuda"))
    with torch.no_grad():
        draws = torch.stack([attend(*rows, mask, Rule(dropout=0.2)).float() for _ in range(1000)])
        torch.testing.assert_close(draws.mean(0), expected(rows, Rule()), atol=0.12, rtol=0)
    assert draws.std(0).max() > 0.1
