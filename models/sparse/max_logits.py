"""The largest logit of each token of the vocabulary over the tokens of a row, without the logits of all tokens.

With hidden states h_t [dim] of a row's tokens t, and a language model's head w_v, b_v:

    m_v = max(0, max_t (w_v h_t + b_v))

A tensor [tokens, vocabulary] is never made: forward and backward go through groups of rows of similar length and blocks
of the vocabulary. Which token had the largest logit is kept, since it alone has a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from models.cpu.linear import fastest_linear
from models.packing.lengths import row_lengths

GROUP = 2048  # tokens of rows that are computed at a time, with their padding
BLOCK = 2048  # tokens of the vocabulary that are: 16 MiB of logits
SHORT = torch.iinfo(torch.int16).max


@dataclass(frozen=True)
class Rows:
    """Some rows of similar length."""

    index: Tensor  # [rows] int64: which rows they are
    tokens: Tensor  # [rows, longest] int64: places in the real tokens; of padding any place
    padding: Tensor | None  # [rows, longest, 1] bool; None: there is none


def max_logits(hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute m [rows, vocabulary], at least 0, from hidden [rows, tokens, dim], mask [rows, tokens] (0: padding, on
    either side), weight [vocabulary, dim] and bias [vocabulary], in the type that autocast has set for `hidden`.

    The number of tokens of each row is read on the host (`models.packing.lengths`). A row of padding alone gets 0.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    # Values of fake tensors are not known: a memory plan has rows without padding.
    lengths = [mask.shape[1]] * len(mask) if isinstance(mask, FakeTensor) else row_lengths(mask)
    flat = hidden.flatten(0, 1)
    if sum(lengths) < len(flat):
        flat = flat[torch.nonzero_static(mask.flatten().bool(), size=sum(lengths)).squeeze(1)]
    with torch.autocast(device, enabled=False):
        found: Tensor = _MaxLogits.apply(flat, weight, bias, tuple(lengths), torch.is_grad_enabled())
    return found


class _MaxLogits(torch.autograd.Function):
    """The function behind `max_logits`, on real tokens alone. It saves the parameters themselves for the backward:
    under ZeRO-3 they are freed after the forward and gathered again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, lengths: Sequence[int], keeps_places: bool
    ) -> Tensor:
        """`keeps_places`: for a backward. The largest values alone are found much faster on the CPU."""
        size, longest = len(weight), max(lengths, default=0)
        found = hidden.new_zeros(len(lengths), size)
        shape = found.shape if keeps_places else (0, 0)
        where = torch.zeros(shape, dtype=torch.int16 if longest <= SHORT else torch.int32, device=hidden.device)
        for rows in groups(lengths, hidden.device):
            own = hidden[rows.tokens.flatten()]
            for part in blocks(size):
                logits = _logits(own, weight, bias, part).unflatten(0, rows.tokens.shape)
                if rows.padding is not None:
                    logits = logits.masked_fill_(rows.padding, 0.0)
                if keeps_places:
                    values, places = logits.max(dim=1)
                    where[rows.index, part] = places.to(where.dtype)
                else:
                    values = logits.amax(dim=1)
                found[rows.index, part] = values.clamp_(min=0)
        ctx.save_for_backward(hidden, weight, bias, found, where)
        ctx.lengths = lengths
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, found, where = ctx.saved_tensors
        gradient = gradient * (found > 0)
        products = _sparse_products if hidden.device.type == "cpu" and not _is_fake(hidden) else _dense_products
        needs = ctx.needs_input_grad[:2]
        of_hidden, of_weight = products(gradient, where, hidden, weight, ctx.lengths, needs)
        of_bias = gradient.sum(0).to(bias.dtype) if ctx.needs_input_grad[2] else None
        return of_hidden, of_weight, of_bias, None, None


def _sparse_products(
    gradient: Tensor, where: Tensor, hidden: Tensor, weight: Tensor, lengths: Sequence[int], needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of hidden states and weights, from those of the logits: one logit of a row has one for each token
    of the vocabulary, and most have none once the model is sparse."""
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    row, entry = gradient.nonzero(as_tuple=True)
    token = starts[row] + where[row, entry]
    exact = torch.promote_types(gradient.dtype, torch.float32)
    values = gradient[row, entry].to(exact)
    shape = (len(hidden), len(weight))
    matrix = torch.sparse_coo_tensor(torch.stack([token, entry]), values, shape, check_invariants=False)
    of_hidden = torch.sparse.mm(matrix, weight.to(exact)).to(hidden.dtype) if needs[0] else None
    of_weight = torch.sparse.mm(matrix.t(), hidden.to(exact)).to(weight.dtype) if needs[1] else None
    return of_hidden, of_weight


def _dense_products(
    gradient: Tensor, where: Tensor, hidden: Tensor, weight: Tensor, lengths: Sequence[int], needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The same block by block, without a number that the host would have to wait for."""
    exact = torch.promote_types(gradient.dtype, torch.float32)
    of_hidden = torch.zeros_like(hidden, dtype=exact) if needs[0] else None
    of_weight = torch.zeros_like(weight) if needs[1] else None
    for rows in groups(lengths, hidden.device):
        own = hidden[rows.tokens.flatten()]
        of_own = torch.zeros_like(own, dtype=exact)
        for part in blocks(len(weight)):
            values, places = gradient[rows.index, part], where[rows.index, part].long()
            logits = values.new_zeros(*rows.tokens.shape, values.shape[1])
            logits = logits.scatter_(1, places.unsqueeze(1), values.unsqueeze(1)).flatten(0, 1)
            if of_hidden is not None:
                of_own += (logits @ weight[part].to(logits.dtype)).to(exact)
            if of_weight is not None:
                of_weight[part] += (logits.T @ own).to(weight.dtype)
        if of_hidden is not None:
            of_hidden.index_add_(0, rows.tokens.flatten(), of_own)  # of padding it is 0
    return None if of_hidden is None else of_hidden.to(hidden.dtype), of_weight


def groups(lengths: Sequence[int], device: torch.device) -> Iterator[Rows]:
    """Divide the rows that have a token into groups of at most GROUP tokens (or one row), shortest first."""
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    order = [row for row in sorted(range(len(lengths)), key=lambda row: lengths[row]) if lengths[row]]
    while order:
        number = next(
            (count for count in range(1, len(order)) if (count + 1) * lengths[order[count]] > GROUP), len(order)
        )
        chosen, order = order[:number], order[number:]
        own, longest = torch.tensor([lengths[row] for row in chosen]), lengths[chosen[-1]]
        place = torch.arange(longest)
        padding = place >= own.unsqueeze(1)
        tokens = starts[chosen].unsqueeze(1) + place.where(~padding, 0)
        is_padded = lengths[chosen[0]] < longest
        yield Rows(
            torch.tensor(chosen).to(device, non_blocking=True),
            tokens.to(device, non_blocking=True),
            padding.unsqueeze(-1).to(device, non_blocking=True) if is_padded else None,
        )


def blocks(size: int) -> list[slice]:
    """The parts of a vocabulary of `size` tokens."""
    return [slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    return fastest_linear(hidden, weight[part].to(hidden.dtype), None if bias is None else bias[part].to(hidden.dtype))


def _is_fake(values: Tensor) -> bool:
    return isinstance(values, FakeTensor)
