"""The memory of a rank on each engine, without activations: weights, gradients, optimizer state and buffers, in bytes.

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
https://arxiv.org/abs/1910.02054, and what DeepSpeed 0.19.8 allocates in addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.torch_engine import BUCKET_BYTES

_CPU = torch.device("cpu")
FLOAT_BYTES = 4  # bytes: weights, gradients and optimizer state are float32 on every engine
MOMENTS = {"adamw": 2, "sgd": 0}  # moments that the optimizer keeps per weight
STAGE_0_BUCKET = 500_000_000  # elements: DeepSpeed's bucket for reductions without ZeRO
MAX_LIVE = 1_000_000_000  # elements: ZeRO-3's stage3_max_live_parameters


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


def state_bytes(engine: Any, parameters: Parameters, *, ranks: int, optimizer: str) -> StateBytes:
    """The memory of a rank on the engine of this configuration, with `ranks` ranks."""
    if not isinstance(engine, DeepSpeedEngineConfig):
        return _torch(parameters, ranks, optimizer)
    whole, trained = FLOAT_BYTES * parameters.total, FLOAT_BYTES * parameters.trainable
    moments = MOMENTS[optimizer] * trained
    if engine.stage == 0:
        bucket = FLOAT_BYTES * min(parameters.trainable, STAGE_0_BUCKET) if ranks > 1 else 0
        return StateBytes(whole, trained, moments, update=bucket)
    zero = engine.options(1.0, device=_CPU)["zero_optimization"] | engine.config.get("zero_optimization", {})
    share = trained / ranks
    bucket = FLOAT_BYTES * min(parameters.trainable, max(zero["reduce_bucket_size"], parameters.largest))
    if engine.stage < 3:
        whole_gradients = engine.stage == 1 or engine.coalesce
        states = StateBytes(
            weights=whole,
            gradients=trained if whole_gradients else share,
            optimizer=share + moments / ranks,  # a float32 copy of the rank's part of the weights, and the moments
            reduction=0.0 if whole_gradients else bucket,
            update=bucket + (2 * share if whole_gradients else share),  # gradients flattened for the update
            loading=trained + share,  # the flattened weights, then the copy of the rank's part
        )
    else:
        live = FLOAT_BYTES * min(parameters.total, zero.get("stage3_max_live_parameters", MAX_LIVE))
        states = StateBytes(
            weights=whole / ranks,
            gradients=trained if engine.coalesce else share,
            optimizer=moments / ranks,  # no copy: the rank's part of the weights is updated itself
            gathered=live,
            reduction=bucket,
            update=bucket + share,
            loading=whole,  # the full model on the CPU of every rank, before it is partitioned
        )
    return _offloaded(states, engine.offload, share)


def checkpoint_bytes(parameters: Parameters, *, optimizer: str) -> float:
    """The size of a checkpoint of all ranks together, on any engine: trainable weights and moments."""
    return FLOAT_BYTES * parameters.trainable * (1 + MOMENTS[optimizer])


def _torch(parameters: Parameters, ranks: int, optimizer: str) -> StateBytes:
    trained = FLOAT_BYTES * parameters.trainable
    bucket = min(trained, max(BUCKET_BYTES, FLOAT_BYTES * parameters.largest)) if ranks > 1 else 0
    return StateBytes(FLOAT_BYTES * parameters.total, trained, MOMENTS[optimizer] * trained, update=bucket)


def _offloaded(states: StateBytes, offload: str, share: float) -> StateBytes:
    """Move the optimizer state and the gradients that it reads to CPU memory; with "all" the weights too."""
    if offload == "none":
        return states
    moved = states.optimizer + share
    values = states.__dict__ | {"optimizer": 0.0, "host": moved}
    if offload == "all":
        values |= {"weights": 0.0, "host": moved + states.weights}
    return StateBytes(**values)
