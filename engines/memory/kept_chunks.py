"""The chunks of a step whose graphs are kept until the backward: a given number, or as many as fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from engines.distributed.collectives import gather_objects
from engines.memory.available import available_bytes
from engines.memory.live_bytes import LiveBytes

AUTO = "auto"
WARM_UP = 1  # steps before the one that is measured: then the optimizer has its state, and libraries are loaded


class KeptChunks:
    """The number of chunks of this rank that keep their graphs: `count`, the same on all ranks.

    "auto" begins with 1. In the second step of the process it measures what the graph of the largest chunk holds, and
    what its forward and backward take at most. From the third step on as many chunks are kept as the free memory then
    held. The number changes results by rounding only: a chunk that is not kept runs again with the same random numbers.
    """

    def __init__(self, option: int | str, model: nn.Module, device: torch.device) -> None:
        self.option = option
        self.is_auto = isinstance(option, str)
        self.count = 1 if isinstance(option, str) else option
        self.chosen = ""  # one line about the number, once it is measured
        self._model, self._device = model, device
        self._steps = 0  # that have ended
        self._probe: ChunkProbe | None = None
        if self.is_auto:
            available_bytes(device)  # raises before the first step if it is not known

    def __str__(self) -> str:
        return f"{AUTO}: {self.count}" if self.is_auto else str(self.count)

    def of_step(self, num_chunks: int) -> range:
        """The chunks that keep their graphs in a step that begins: the last ones, or if it is measured the first, which
        is the largest."""
        self._probe = None
        if self.is_auto and not self.chosen and self._steps >= WARM_UP:
            self._probe = ChunkProbe(self._model, available_bytes(self._device))
            return range(min(1, num_chunks))
        return range(max(num_chunks - self.count, 0), num_chunks)

    def watch(self, index: int) -> AbstractContextManager[None]:
        """A context for the forward, and later for the backward, of a chunk."""
        return nullcontext() if index or self._probe is None else self._probe.watch()

    def end_step(self, largest: float) -> None:
        """Note the end of a step, on all ranks. If it was measured, choose the number; chunks may be `largest` times as
        large as the one that was measured."""
        self._steps += 1
        probe, self._probe = self._probe, None
        if probe is None:
            return
        fitting = probe.fitting(largest)
        self.count, held, free = min(gather_objects((fitting, largest * probe.held, probe.available)))
        each, left = (f"{count / 2**20:,.0f} MiB" for count in (held, free))
        self.chosen = (
            f"trainer.kept_chunks=auto: up to {self.count:,} chunks of a rank keep their activations ({each} each, "
            f"{left} are free for them)"
        )


class ChunkProbe:
    """The memory of one chunk, counted in tensors. `available`: the bytes that were free before it ran."""

    def __init__(self, model: nn.Module, available: float) -> None:
        self.available = available
        self.held = 0  # bytes of its graph
        self._live = LiveBytes([*model.parameters(), *model.buffers()])

    @property
    def peak(self) -> int:
        """The most bytes of its forward and backward, the new gradients included."""
        return self._live.peak

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count the tensors that are made inside."""
        with self._live:
            yield
        self.held = self.held or self._live.current

    def fitting(self, largest: float) -> int:
        """The number of graphs of chunks `largest` times as large that fit: all but one of them are held while that one
        runs. At least 1: a chunk that is not kept needs as much when it runs again."""
        return 1 + max(int((self.available - largest * self.peak) / max(largest * self.held, 1.0)), 0)
