"""Weighted sums of the vectors of a table, with a gradient of the rows that were read.

torch's gradient of an embedding bag is a table of its own for every chunk of a step. Here only the first chunk makes a
table. The rows of a chunk are summed by token, by the kernel of the forward: as an embedding bag of the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag


class EmbeddingBag(nn.Embedding):
    """Sums the vectors of the tokens of each row, with weights. On the CPU its gradient is made as the module's
    docstring says, elsewhere and while it is traced by torch."""

    def forward(self, input: Tensor, shares: Tensor) -> Tensor:  # type: ignore[override]
        """The sums [rows, dim] of the vectors of the tokens `input` [rows, tokens], times `shares` [rows, tokens]."""
        weight = self.weight
        trained = weight.requires_grad and torch.is_grad_enabled()
        observed = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0
        if trained and not observed and weight.device.type == "cpu":
            return _Bag.apply(input, weight, shares)
        return embedding_bag(input, weight, mode="sum", per_sample_weights=shares)


class _Bag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(ids, weight, shares)
        return embedding_bag(ids, weight, mode="sum", per_sample_weights=shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        """The rows, as a sparse tensor, if there is a table that autograd adds them to; else a table."""
        ids, weight, shares = ctx.saved_tensors
        tokens, values = _rows(ids, shares, gradient)
        if weight.grad is None or weight.grad.is_sparse:
            return None, torch.zeros_like(weight).index_copy_(0, tokens, values), None
        rows = torch.sparse_coo_tensor(tokens.unsqueeze(0), values, weight.shape, check_invariants=False)
        return None, rows._coalesced_(True), None


def _rows(ids: Tensor, shares: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that were read, each once and in order, and the gradients [tokens, dim] of their vectors."""
    places = shares.flatten().nonzero().squeeze(1)
    tokens, order = ids.flatten()[places].sort(stable=True)
    places = places[order]
    tokens, counts = tokens.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    rows, weights = places // ids.shape[1], shares.flatten()[places]
    gradient = gradient.contiguous()
    return tokens, embedding_bag(rows, gradient, starts, mode="sum", per_sample_weights=weights)
