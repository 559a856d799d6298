"""Counts the collectives of DeepSpeed among those of a step (`engines.distributed.traffic`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from engines.distributed.traffic import counted, gathered, reduced, scattered

Bytes = Callable[[int], dict[str, float]]

# The collectives of training: what each carries, its argument with the bytes of this rank, and what follows from them.
COLLECTIVES: dict[str, tuple[str, str, int, Bytes]] = {
    "all_reduce": ("gradients", "tensor", 0, reduced),
    "reduce": ("gradients", "tensor", 0, scattered),
    "reduce_scatter": ("gradients", "input_list", 1, scattered),
    "reduce_scatter_tensor": ("gradients", "input_tensor", 1, scattered),
    "all_gather": ("weights", "tensor", 1, gathered),
    "all_gather_into_tensor": ("weights", "input_tensor", 1, gathered),
    "all_gather_coalesced": ("weights", "input_tensors", 1, gathered),
}


class CountingBackend:
    """The object by which DeepSpeed calls its collectives. The time of those that it makes asynchronously is not
    known: it waits for them in its own way."""

    def __init__(self, backend: Any):
        self.backend = backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.backend, name)
        return _counting(found, *COLLECTIVES[name]) if name in COLLECTIVES else found


def count_collectives() -> None:
    """Count all collectives that DeepSpeed, which is initialised, makes from now on."""
    from deepspeed.comm import comm

    if type(comm.cdb) is not CountingBackend:
        comm.cdb = CountingBackend(comm.cdb)


def _counting(collective: Any, name: str, keyword: str, position: int, bytes_of: Bytes) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        own = options[keyword] if keyword in options else arguments[position]
        parts: list[Tensor] = [own] if isinstance(own, Tensor) else list(own)
        with counted(name, **bytes_of(sum(part.nbytes for part in parts)), device=parts[0].device):
            return collective(*arguments, **options)

    return call
