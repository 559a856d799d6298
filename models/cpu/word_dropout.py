"""Dropout on the CPU whose masks are random words: about a tenth of the time of torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.cpu.random_words import DropRule, draw_words

BLOCK = 2**18  # values that are masked at a time: they stay in the cache


class WordDropout(nn.Dropout):
    """`nn.Dropout` that uses `dropout` in training on the CPU. Elsewhere it is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.inplace or self.p in (0.0, 1.0) or not uses_words(input):
            return super().forward(input)
        return dropout(input, self.p)


def uses_words(values: Tensor) -> bool:
    """Whether dropout of these values has masks of random words: on the CPU, outside a trace of the model."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return values.device.type == "cpu" and values.is_floating_point() and not traced


def dropout(values: Tensor, probability: float) -> Tensor:
    """Set each value to 0 with the probability, which is rounded as `DropRule` says, and scale the others so that the
    expectation does not change. The words are kept for the backward: a byte or two a value."""
    rule = DropRule.of(probability)
    return _Dropout.apply(values, draw_words(rule, values.numel(), values), rule)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, words: Tensor, rule: DropRule) -> Tensor:
        ctx.save_for_backward(words)
        ctx.rule = rule
        return _mask(values, words, rule)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (words,) = ctx.saved_tensors
        return _mask(gradient, words, ctx.rule), None, None


def _mask(values: Tensor, words: Tensor, rule: DropRule) -> Tensor:
    """The values where the words are kept, scaled."""
    flat = values.contiguous().flatten()
    masked = torch.empty_like(flat)
    kept = flat.new_empty(min(BLOCK, len(flat)))
    for part, word, out in zip(*(each.split(BLOCK) for each in (flat, words, masked)), strict=True):
        torch.mul(part, rule.write_kept(word, kept[: len(word)]), out=out).mul_(rule.scale)
    return masked.view(values.shape)
