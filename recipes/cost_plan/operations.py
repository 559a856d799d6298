"""The floating-point operations of matrix products in a chunk, counted on a model without weights and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from engines.memory.live_bytes import FakeTensorModel
from recipes.cost_plan.shapes import Shape, columns, sample_shapes

PRODUCT = 2  # operations of a multiplication and an addition


@dataclass(frozen=True)
class ChunkFlops:
    """Operations of a chunk: of its forward, and of its backward."""

    forward: float
    backward: float


class FlopsOfChunks:
    """The operations of any chunk of a workload, exact where some chunks were counted and between them: those of n rows
    of L tokens are n (a L^2 + b L + c). They are counted when they are first asked for."""

    def __init__(self, model: FakeTensorModel, features: Mapping[str, int], shapes: Sequence[Shape]) -> None:
        self._model, self._features, self._shapes = model, features, shapes

    @cached_property
    def _fit(self) -> np.ndarray:
        counted = sample_shapes(self._shapes, number=3)  # the form is exact, so a few are enough
        counts = np.array([_count(self._model, self._features, *shape) for shape in counted])
        rows = np.array([columns(shape)[:-1] for shape in counted])
        scale = rows.max(axis=0)
        fit: np.ndarray = np.linalg.lstsq(rows / scale, counts, rcond=None)[0] / scale[:, None]
        return fit

    def __call__(self, shape: Shape) -> ChunkFlops:
        return ChunkFlops(*(float(count) for count in np.array(columns(shape)[:-1]) @ self._fit))


def _count(model: FakeTensorModel, features: Mapping[str, int], rows: int, tokens: int) -> tuple[float, float]:
    model.model.train()
    with model.mode:
        filled = {name: torch.full((rows, tokens), value) for name, value in features.items()}
        with FlopCounterMode(display=False, custom_mapping=CPU_PRODUCTS) as counter:
            output = sum((value.sum() for value in model.runner.forward(filled).values()), torch.zeros(()))
            forward = counter.get_total_flops()
            if output.requires_grad:  # not that of a frozen model
                output.backward()
    for parameter in model.model.parameters():
        parameter.grad = None
    return forward, counter.get_total_flops() - forward


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Operations of attention: the products of queries with keys, and of their weights with values."""
    batch, heads, asking, dimension = query
    return PRODUCT * batch * heads * asking * key[-2] * (dimension + value[-1])


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Five products, where the forward has two: the scores again, and the gradients of four matrices."""
    batch, heads, asking, dimension = query
    return PRODUCT * batch * heads * asking * key[-2] * (3 * dimension + 2 * value[-1])


def _linear(values: Any, weight: Any, *_: Any, **__: Any) -> int:
    return PRODUCT * int(np.prod(values)) * weight[0]


# Products of the CPU that torch's counter does not know.
CPU_PRODUCTS: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.mkldnn._linear_pointwise: _linear,
}
