"""The memory of a rank without activations: weights, gradients, optimizer state and buffers, in bytes.

The options of each engine compute it (`state_bytes` in engines/protocol.py) for launch/plan.py.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT_BYTES = 4  # bytes: weights, gradients and optimizer state are float32 on every engine
MOMENTS = {"adamw": 2, "sgd": 0}  # moments that the optimizer keeps per weight


@dataclass(frozen=True)
class Parameters:
    """The number of elements in the parameters of a model."""

    total: int
    trainable: int
    largest: int  # in the largest trainable parameter


@dataclass(frozen=True)
class StateBytes:
    """The memory of one rank in bytes, without activations."""

    weights: float  # kept between steps
    gradients: float  # from the first backward of a step to its update
    optimizer: float
    gathered: float = 0.0  # full weights, during a step (ZeRO-3)
    reduction: float = 0.0  # buffers in every backward, while activations are alive (stages 2, 3)
    update: float = 0.0  # buffers after the last backward, when no activations are alive
    loading: float = 0.0  # while the engine is built, in addition to the weights
    host: float = 0.0  # moved to CPU memory by offload


def checkpoint_bytes(parameters: Parameters, *, optimizer: str) -> float:
    """The size of a checkpoint of all ranks together, on any engine: trainable weights and moments."""
    return FLOAT_BYTES * parameters.trainable * (1 + MOMENTS[optimizer])
