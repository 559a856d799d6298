"""How many bytes the tensors of a forward and backward hold, found on tensors without data (torch's FakeTensorMode)."""

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


class LiveBytes(TorchDispatchMode):
    """Inside, `current` is what the storages made since `start` hold, and `peak` the most that they held."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._known = {_key(tensor) for tensor in known}
        self.current = 0
        self.peak = 0

    def start(self) -> None:
        self.peak = self.current

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._known or key in self._sizes:
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
    """The memory of one chunk beside weights and gradients, in bytes."""

    held: float  # by its graph, after the forward
    forward: float  # at most, during a forward that keeps the graph
    backward: float  # at most, during the backward, what is held included; gradients accumulate in place
    first_backward: float  # likewise, with the gradients that the step's first backward makes
    no_graph: float  # at most, during a forward without graph, in the model's present mode

    def __add__(self, other: ChunkBytes) -> ChunkBytes:
        return ChunkBytes(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


class EmptyModel:
    """A model without data: what its chunks would take, exact for any architecture, whatever its size.

    `model` may hold real or meta weights; it is emptied. Attention and every other kernel are chosen as on this
    machine's CPU (flash attention where the model runs without dropout, which saves what it saves on a GPU too).
    """

    def __init__(self, model: nn.Module, *, bf16: bool) -> None:
        self.mode = FakeTensorMode()
        with self.mode:
            empty_weights(model)
        self.model = model
        self.runner = MixedPrecision(model, bf16)

    def chunk(self, features: Mapping[str, int], rows: int, tokens: int) -> ChunkBytes:
        """Of `rows` rows of `tokens` tokens each, in training mode. `features`: those of a token, by name."""
        self.model.train()
        held, forward, first = self._backward(features, rows, tokens)
        _, _, again = self._backward(features, rows, tokens)
        no_graph = self._no_graph(features, rows, tokens)
        for parameter in self.model.parameters():
            parameter.grad = None
        return ChunkBytes(held, forward, again, first, no_graph)

    def evaluation(self, features: Mapping[str, int], rows: int, tokens: int) -> float:
        """The most that a forward in evaluation mode holds, in bytes."""
        self.model.eval()
        return self._no_graph(features, rows, tokens)

    def _backward(self, features: Mapping[str, int], rows: int, tokens: int) -> tuple[float, float, float]:
        with self.mode, self._tracker() as live:
            output = self.runner.forward(_padded(features, rows, tokens))
            held, forward = live.current, live.peak
            surrogate = sum(((value * torch.empty_like(value)).sum() for value in output.values()), torch.zeros(()))
            live.start()
            surrogate.backward()
            return held, forward, live.peak

    def _no_graph(self, features: Mapping[str, int], rows: int, tokens: int) -> float:
        with torch.no_grad(), self.mode, self._tracker() as live:
            self.runner.forward(_padded(features, rows, tokens))
            return live.peak

    def _tracker(self) -> LiveBytes:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return LiveBytes([*self.model.parameters(), *self.model.buffers(), *gradients])


def _padded(features: Mapping[str, int], rows: int, tokens: int) -> dict[str, Tensor]:
    return {name: torch.full((rows, tokens), value) for name, value in features.items()}


def empty_weights(model: nn.Module) -> None:
    """Replace parameters and buffers by CPU tensors of the active mode, shared ones by shared ones."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if id(old) not in made:
                    empty = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                    made[id(old)] = nn.Parameter(empty, old.requires_grad) if isinstance(old, nn.Parameter) else empty
                tensors[name] = made[id(old)]  # type: ignore[assignment]
