"""The attention of packs is attention under their mask, in value and gradient, and models use it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from llm_rerankers import build
from torch import Tensor

import models.llm_reranker
from data.batch import TokenSequences
from inference.shared_prefix import Pack, pack_features
from models.attention import PackLayout, pack_attention, pack_mask

PACKS = {"two lists": [Pack(5, [0, 1, 2]), Pack(3, [3])], "no prefix": [Pack(0, [0, 1]), Pack(0, [2, 3])]}


def features(packs: list[Pack]) -> dict[str, Tensor]:
    rows = TokenSequences.from_encoding({"input_ids": [[*range(10, 10 + length)] for length in (9, 6, 12, 4)]})
    return pack_features(rows, packs, padding=0)


def layout_of(given: dict[str, Tensor]) -> PackLayout:
    return PackLayout(given["own_tokens"], given["seen_tokens"], given["places"])


@pytest.mark.parametrize("name", PACKS)
def test_it_is_attention_under_the_mask(name: str) -> None:
    given = features(PACKS[name])
    real = given["attention_mask"].bool()
    draw = partial(torch.randn, dtype=torch.float64, requires_grad=True)
    inputs = [draw(*(len(real), heads, real.shape[1], 6)) for heads in (4, 2, 2)]
    query, key, value = inputs[0], *(each.repeat_interleave(2, dim=1) for each in inputs[1:])
    mask = pack_mask(given["segment_ids"], given["attention_mask"], "sdpa")
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3).transpose(1, 2)[real]
    found = pack_attention(*inputs, layout_of(given), scale=0.3)
    assert found.shape == (*real.shape, 4, 6)
    assert found.isfinite().all()
    torch.testing.assert_close(found[real], expected)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, other in zip(torch.autograd.grad((found[real] * weights).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(gradient, other)


def test_dropout_leaves_out_some_of_it() -> None:
    given = features(PACKS["two lists"])
    tensors = [torch.ones(2, 1, given["places"].shape[1], 4)] * 3
    kept = pack_attention(*tensors, layout_of(given), dropout=0.5)[given["attention_mask"].bool()]
    assert kept.min() < 0.9
    assert kept.mean() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_models_use_it_in_place_of_the_mask(architecture: str, tiny_models, tmp_path: Path, monkeypatch) -> None:
    model = build(tiny_models.write_tiny_causal(tmp_path, architecture=architecture), "qwen3").eval()
    given = features(PACKS["two lists"])
    expected = model(**given)["score"]
    monkeypatch.setattr(models.llm_reranker, "pack_mask", lambda segments, mask, attention: mask[:, None, None].bool())
    torch.testing.assert_close(model(**given)["score"], expected, rtol=0, atol=0)
    monkeypatch.setattr(models.llm_reranker, "layout_options", lambda *given: {})
    assert (model(**given)["score"] - expected)[given["ends"] >= 0].abs().max() > 1e-3, "the mask is not read"
