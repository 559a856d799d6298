"""Embeddings whose gradient is added to the rows that were read.

torch's gradient of an embedding is a table of its own, mostly zeros: for every chunk of a step it is made, and then
added to the gradient of the chunks before. Here only the first chunk of a step makes a table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_VALUES = 2**20  # of a table: smaller ones cost little


class RowEmbedding(nn.Embedding):
    """`nn.Embedding` with gradients of rows, for large trained tables on the CPU. Elsewhere it is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        special = self.max_norm is not None or self.scale_grad_by_freq or self.sparse
        trained = weight.requires_grad and torch.is_grad_enabled() and weight.numel() >= MIN_VALUES
        observed = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0
        if special or not trained or observed or weight.device.type != "cpu":
            return super().forward(input)
        return _Embedding.apply(input, weight, self.padding_idx)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids, weight)
        ctx.padding = padding
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        """The rows, as a sparse tensor, if there is a table that autograd adds them to; else a table."""
        ids, weight = ctx.saved_tensors
        rows, values = ids.flatten(), gradient.reshape(-1, gradient.shape[-1])
        if ctx.padding is not None and bool((is_padding := rows == ctx.padding).any()):
            read = (~is_padding).nonzero().squeeze(1)
            rows, values = rows[read], values[read]
        if weight.grad is None or weight.grad.is_sparse:
            return None, torch.zeros_like(weight).index_add_(0, rows, values), None
        return None, torch.sparse_coo_tensor(rows.unsqueeze(0), values, weight.shape, check_invariants=False), None
