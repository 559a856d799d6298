"""The bytes that the tensors of a forward and backward take, measured on fake tensors (torch's FakeTensorMode)."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engines.precision import MixedPrecision
from tensors.ragged import elements


class LiveBytes(TorchDispatchMode):
    """A context that counts the bytes of the storages that are allocated inside.

    `current` is their present sum, and `peak` the largest since `start`. The storages of `ignored` are not counted.
    """

    def __init__(self, ignored: list[Tensor]) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._ignored = {_key(tensor) for tensor in ignored}
        self.current = 0
        self.peak = 0

    def start(self) -> None:
        """Measure the peak from here on."""
        self.peak = self.current

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._ignored or key in self._sizes:
            return
        storage = tensor.untyped_storage()
        self._sizes[key] = storage.nbytes()
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.current -= self._sizes.pop(key, 0)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@dataclass(frozen=True)
class ChunkBytes:
    """The memory of one chunk in bytes, without weights and gradients."""

    held: float  # by the graph, after the forward
    forward: float  # peak of a forward that keeps its graph
    backward: float  # peak of the backward, the graph included; gradients accumulate in place
    first_backward: float  # peak of the first backward of a step, which allocates the gradients
    no_graph: float  # peak of a forward without graph, in the present mode of the model

    def __add__(self, other: ChunkBytes) -> ChunkBytes:
        return ChunkBytes(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


class FakeTensorModel:
    """A model on fake tensors, to measure the memory of its chunks: exact for any architecture, and of any size.

    `model` may hold real or meta weights; they are replaced by fake ones. Attention and all other kernels are chosen as
    on the CPU of this machine. Without dropout that is flash attention, which saves the same tensors on a GPU.
    """

    def __init__(self, model: nn.Module, *, autocast: torch.dtype | None) -> None:
        self.mode = FakeTensorMode()
        with self.mode:
            _replace_weights(model)
        self.model = model
        self.runner = MixedPrecision(model, autocast)

    def chunk(self, features: Mapping[str, int], rows: int, tokens: int) -> ChunkBytes:
        """The memory of a chunk of `rows` rows of `tokens` tokens each, in training mode.

        `features` holds the value that every token has in each input, by name.
        """
        self.model.train()
        held, forward, first_backward = self._backward(features, rows, tokens)
        _, _, backward = self._backward(features, rows, tokens)
        no_graph = self._no_graph(features, rows, tokens)
        for parameter in self.model.parameters():
            parameter.grad = None
        return ChunkBytes(held, forward, backward, first_backward, no_graph)

    def evaluation(self, features: Mapping[str, int], rows: int, tokens: int) -> float:
        """The peak of a forward in evaluation mode, in bytes."""
        self.model.eval()
        return self._no_graph(features, rows, tokens)

    def _backward(self, features: Mapping[str, int], rows: int, tokens: int) -> tuple[float, float, float]:
        with self.mode, self._tracker() as live:
            output = self.runner.forward(_features(features, rows, tokens))
            held, forward = live.current, live.peak
            values = [elements(value) for value in output.values()]
            surrogate = sum(((value * torch.empty_like(value)).sum() for value in values), torch.zeros(()))
            live.start()
            surrogate.backward()
            return held, forward, live.peak

    def _no_graph(self, features: Mapping[str, int], rows: int, tokens: int) -> float:
        with torch.no_grad(), self.mode, self._tracker() as live:
            self.runner.forward(_features(features, rows, tokens))
            return live.peak

    def _tracker(self) -> LiveBytes:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return LiveBytes([*self.model.parameters(), *self.model.buffers(), *gradients])


def _features(features: Mapping[str, int], rows: int, tokens: int) -> dict[str, Tensor]:
    return {name: torch.full((rows, tokens), value) for name, value in features.items()}


def _replace_weights(model: nn.Module) -> None:
    """Replace parameters and buffers by fake CPU tensors. Call inside FakeTensorMode. Shared tensors stay shared."""
    replaced: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if id(old) not in replaced:
                    empty = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                    is_parameter = isinstance(old, nn.Parameter)
                    replaced[id(old)] = nn.Parameter(empty, old.requires_grad) if is_parameter else empty
                tensors[name] = replaced[id(old)]  # type: ignore[assignment]
