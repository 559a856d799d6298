"""The peak memory of a step, from that of its chunks."""

from __future__ import annotations

from collections.abc import Sequence

from engines.memory.live_bytes import ChunkBytes
from engines.memory.state_bytes import FLOAT_BYTES, Parameters, StateBytes


def step_peak(
    chunks: Sequence[ChunkBytes], kept_chunks: int, states: StateBytes, parameters: Parameters, objective: float = 0.0
) -> float:
    """The peak memory of one step beside weights and optimizer. It follows the order of events in trainers/step.py.
    `objective`: bytes that the loss takes, between the forwards and the backwards."""
    first_kept = max(len(chunks) - kept_chunks, 0)
    live = peak = 0.0
    for index, chunk in enumerate(chunks):
        peak = max(peak, live + (chunk.forward if index >= first_kept else chunk.no_graph))
        live += chunk.held if index >= first_kept else 0.0
    peak = max(peak, live + objective)
    # ZeRO 2 and 3 pass each gradient on when it is computed; other engines allocate all of them in the first backward.
    whole = parameters.trainable > 0 and states.gradients >= FLOAT_BYTES * parameters.trainable
    gradients = 0.0 if whole and not states.at_once else states.gradients
    for index in [*range(first_kept, len(chunks)), *range(first_kept)]:
        chunk = chunks[index]
        if index < first_kept:
            peak = max(peak, live + gradients + chunk.forward)
        else:
            live -= chunk.held
        backward = chunk.first_backward if whole and gradients == 0.0 else chunk.backward
        peak = max(peak, live + gradients + states.reduction + backward)
        gradients = states.gradients
    return max(peak, gradients + states.update)
