"""Attention with dropout on the CPU, at about the cost of torch's fused attention without.

torch has no fused kernel with dropout there: it writes the matrices of scores, probabilities and masks of all heads to
memory, and draws the masks slowly. Here a few heads at a time stay in the cache, and the backward makes their
probabilities again: kept are the inputs and a byte (or two) of random words for each probability.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.cpu.random_words import DropRule, draw_words

BLOCK = 2**18  # probabilities that are computed at a time, 2 MB


def attention_with_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    probability: float,
    *,
    scale: float | None = None,
    is_causal: bool = False,
) -> Tensor:
    """softmax(query key' scale + mask), with dropout of the given probability, times value.

    query [rows, heads, queries, dim], key and value [rows, heads, keys, dim] -> [rows, heads, queries, dim]. `mask` can
    be broadcast to [rows, heads, queries, keys]: bool (True: attends), or added to the scores; it gets no gradient.
    """
    rule = DropRule.of(probability)
    if is_causal:
        allowed = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        mask = allowed if mask is None else torch.where(allowed, mask, _never(mask))
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    words = draw_words(rule, query.shape[:-1].numel() * key.shape[-2], query)
    return _Attention.apply(query, key, value, mask, words, rule, factor)


def _never(mask: Tensor) -> float | bool:
    """The value of a mask for what is not attended to. Not minus infinity: padding that attends to nothing would be
    NaN."""
    return False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        words: Tensor,
        rule: DropRule,
        factor: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask, words)
        ctx.rule, ctx.factor = rule, factor
        output = torch.empty_like(query)
        with torch.autocast("cpu", enabled=False):
            for block, (probabilities, kept) in _blocks(query, key, matrices=2):
                _write_probabilities(probabilities, block, query, key, mask, factor)
                probabilities *= rule.write_kept(_words_of(words, block, kept, query), kept)
                _write(output, block, torch.bmm(probabilities, _heads(value, block)).mul_(rule.scale))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, words = ctx.saved_tensors
        rule, factor = ctx.rule, ctx.factor
        gradients = tuple(torch.empty_like(each) for each in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            for block, (probabilities, kept, of_scores) in _blocks(query, key, matrices=3):
                _write_probabilities(probabilities, block, query, key, mask, factor)
                rule.write_kept(_words_of(words, block, kept, query), kept)
                scaled = _heads(gradient, block) * rule.scale
                torch.bmm(scaled, _heads(value, block).transpose(1, 2), out=of_scores).mul_(kept)
                kept *= probabilities  # now the probabilities that were multiplied by the values
                _write(gradients[2], block, torch.bmm(kept.transpose(1, 2), scaled))
                torch._softmax_backward_data(of_scores, probabilities, -1, query.dtype, grad_input=of_scores)
                of_scores *= factor
                _write(gradients[0], block, torch.bmm(of_scores, _heads(key, block)))
                _write(gradients[1], block, torch.bmm(of_scores.transpose(1, 2), _heads(query, block)))
        return (*gradients, None, None, None, None)


Block = tuple[slice, slice]  # of rows, of heads


def _blocks(query: Tensor, key: Tensor, *, matrices: int) -> Iterator[tuple[Block, Tensor]]:
    """Blocks of at most BLOCK probabilities: some rows with all heads, or one row with some heads. With each comes
    memory for so many matrices [matrices, heads of the block, queries, keys]: always the same, so it stays in the
    cache."""
    rows, heads, queries, _ = query.shape
    fitting = max(BLOCK // max(queries * key.shape[2], 1), 1)  # heads
    row_step, step = max(fitting // heads, 1), -(-heads // -(-heads // fitting))  # a row is divided evenly
    memory = query.new_empty(matrices, min(row_step, rows) * step, queries, key.shape[2])
    for row in range(0, rows, row_step):
        for head in range(0, heads, step):
            last_row, last_head = min(row + row_step, rows), min(head + step, heads)
            block = slice(row, last_row), slice(head, last_head)
            yield block, memory[:, : (last_row - row) * (last_head - head)]


def _heads(values: Tensor, block: Block) -> Tensor:
    """The heads of a block, in one dimension: [heads, tokens, dim]."""
    return values[block].flatten(0, 1)


def _write(values: Tensor, block: Block, heads: Tensor) -> None:
    part = values[block]
    part.copy_(heads.view(part.shape))


def _write_probabilities(
    probabilities: Tensor, block: Block, query: Tensor, key: Tensor, mask: Tensor | None, factor: float
) -> None:
    """Write the softmax [heads, queries, keys] of a block."""
    heads, keys = _heads(query, block), _heads(key, block).transpose(1, 2)
    torch.baddbmm(probabilities, heads, keys, beta=0, alpha=factor, out=probabilities)
    if mask is not None:
        own = [part if size > 1 else slice(None) for part, size in zip(block, mask.shape, strict=False)]
        part = mask[own[0], own[1]]
        if part.dtype == torch.bool:
            part = query.new_zeros(part.shape).masked_fill_(~part, torch.finfo(query.dtype).min)
        shape = [each.stop - each.start for each in block]
        probabilities.view(*shape, *probabilities.shape[1:]).add_(part)
    torch.softmax(probabilities, -1, out=probabilities)


def _words_of(words: Tensor, block: Block, kept: Tensor, query: Tensor) -> Tensor:
    """The words of a block, in the shape of `kept`."""
    rows, heads = (part.start for part in block)
    start = (rows * query.shape[1] + heads) * kept.shape[1:].numel()
    return words[start : start + kept.numel()].view(kept.shape)
