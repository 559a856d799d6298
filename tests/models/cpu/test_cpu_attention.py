"""Attention with dropout: equal in value and gradient to the composition with the same masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.cpu import attention
from models.cpu.attention import attention_with_dropout
from models.cpu.random_words import DropRule, draw_words


def composed(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, probability: float, scale: float | None
) -> Tensor:
    """The definition, in whole matrices, with the masks of the same seed."""
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30) if mask.dtype == torch.bool else scores + mask
    rule = DropRule.of(probability)
    words = draw_words(rule, scores.numel(), scores).view(scores.shape)
    kept = rule.write_kept(words, torch.empty_like(scores))
    return torch.softmax(scores, -1) * kept * rule.scale @ value


def random_inputs(rows: int, heads: int, queries: int, keys: int, dim: int) -> list[Tensor]:
    """Query, key and value as a model makes them: views of [rows, tokens, heads, dim]."""
    return [torch.randn(rows, tokens, heads, dim).transpose(1, 2).requires_grad_() for tokens in (queries, keys, keys)]


def masks(rows: int, queries: int, keys: int) -> dict[str, Tensor | None]:
    padding = torch.arange(keys) < torch.randint(1, keys + 1, (rows, 1))
    return {
        "none": None,
        "padding": padding[:, None, None],
        "per query": (torch.rand(rows, 1, queries, keys) > 0.4) | torch.eye(queries, keys, dtype=torch.bool),
        "added": torch.randn(1, 1, queries, keys),
        "two dimensions": torch.randn(queries, keys),
    }


@pytest.mark.parametrize("name", masks(1, 1, 1))
@pytest.mark.parametrize(("shape", "block"), [((3, 4, 9, 9, 8), 200), ((5, 2, 7, 12, 4), 2**19), ((1, 3, 1, 1, 2), 1)])
@pytest.mark.parametrize("probability", [0.1, 0.01])
def test_it_is_the_composition(
    name: str, shape: tuple[int, ...], block: int, probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of one head, of some rows, and in one block."""
    monkeypatch.setattr(attention, "BLOCK", block)
    inputs, mask = random_inputs(*shape), masks(shape[0], *shape[2:4])[name]
    results = []
    for function in (lambda *given: attention_with_dropout(*given[:-1], scale=given[-1]), composed):
        torch.manual_seed(3)
        output = function(*inputs, mask, probability, 0.3)
        results.append((output, *torch.autograd.grad(output, inputs, torch.ones_like(output).cumsum(1))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


def test_causal_attention_sees_no_later_token() -> None:
    query, key, value = random_inputs(2, 2, 6, 6, 4)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    torch.manual_seed(3)
    found = attention_with_dropout(query, key, value, None, 0.2, is_causal=True)
    torch.manual_seed(3)
    torch.testing.assert_close(found, composed(query, key, value, causal, 0.2, None), atol=1e-6, rtol=0)
    padding = torch.tensor([True, True, True, True, False, False])
    torch.manual_seed(3)
    found = attention_with_dropout(query, key, value, padding, 0.2, is_causal=True)
    torch.manual_seed(3)
    expected = composed(query, key, value, causal & padding, 0.2, None)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_bf16_is_near_float32() -> None:
    inputs = random_inputs(2, 2, 9, 9, 8)
    torch.manual_seed(3)
    exact = attention_with_dropout(*inputs, None, 0.1)
    halves = [each.detach().bfloat16().requires_grad_() for each in inputs]
    torch.manual_seed(3)
    output = attention_with_dropout(*halves, None, 0.1)
    output.sum().backward()
    assert output.dtype == halves[0].grad.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, atol=0.05, rtol=0)
