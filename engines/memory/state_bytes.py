"""The memory of a rank without activations: weights, gradients, optimizer state and buffers, in bytes.

The options of each engine compute it (`state_bytes` in engines/protocol.py) for launch/plan.py.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT_BYTES = 4  # bytes: weights, gradients and optimizer state are float32 on every engine
BLOCK_8BIT = 256  # 8-bit moments that share a float32 scale


@dataclass(frozen=True)
class Parameters:
    """The number of elements in the parameters of a model."""

    total: int
    trainable: int
    largest: int  # in the largest trainable parameter
    in_8bit: int = 0  # of the trainable ones, those whose moments have 8 bits under adamw_8bit


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
    at_once: bool = False  # whether all gradients are made before the first backward, and not one by one during it


def checkpoint_bytes(parameters: Parameters, *, optimizer: str) -> float:
    """The size of a checkpoint of all ranks together, on any engine: trainable weights and moments."""
    return FLOAT_BYTES * parameters.trainable + moment_bytes(parameters, optimizer)


def moment_bytes(parameters: Parameters, optimizer: str) -> float:
    """The bytes of all moments that the optimizer keeps: two per weight (AdamW), or none."""
    if optimizer == "sgd":
        return 0.0
    in_8bit = parameters.in_8bit if optimizer == "adamw_8bit" else 0
    return 2 * (FLOAT_BYTES * (parameters.trainable - in_8bit) + in_8bit * (1 + FLOAT_BYTES / BLOCK_8BIT))
