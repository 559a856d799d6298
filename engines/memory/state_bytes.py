"""What a rank holds beside activations on each engine: weights, gradients, optimizer state and buffers, in bytes.

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
https://arxiv.org/abs/1910.02054, and what DeepSpeed 0.19.8 allocates beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.torch_engine import BUCKET_BYTES

_CPU = torch.device("cpu")
FLOAT = 4  # bytes: weights, gradients and optimizer state are float32 on every engine
MOMENTS = {"adamw": 2, "sgd": 0}  # tensors of the optimizer per weight
STAGE_0_BUCKET = 500_000_000  # elements: DeepSpeed's own, of the reduction without ZeRO
MAX_LIVE = 1_000_000_000  # elements: ZeRO-3's stage3_max_live_parameters


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters."""

    total: int
    trainable: int
    largest: int  # trainable parameter


@dataclass(frozen=True)
class StateBytes:
    """Per rank, in bytes."""

    weights: float  # what the rank keeps between steps
    gradients: float  # from the first backward of a step to its update
    optimizer: float
    gathered: float = 0.0  # whole weights, while a step runs (ZeRO-3)
    reduction: float = 0.0  # buffers beside a whole set of activations, in every backward (stages 2, 3) ...
    update: float = 0.0  # ... and without them, after the last one
    loading: float = 0.0  # while the engine is made, beside the weights
    host: float = 0.0  # of the above, in CPU memory by offload


def state_bytes(engine: Any, parameters: Parameters, *, ranks: int, optimizer: str) -> StateBytes:
    """Of an engine's configuration on `ranks` ranks."""
    if not isinstance(engine, DeepSpeedEngineConfig):
        return _torch(parameters, ranks, optimizer)
    whole, trained = FLOAT * parameters.total, FLOAT * parameters.trainable
    moments = MOMENTS[optimizer] * trained
    if engine.stage == 0:
        bucket = FLOAT * min(parameters.trainable, STAGE_0_BUCKET) if ranks > 1 else 0
        return StateBytes(whole, trained, moments, update=bucket)
    zero = engine.options(1.0, device=_CPU)["zero_optimization"] | engine.config.get("zero_optimization", {})
    share = trained / ranks
    bucket = FLOAT * min(parameters.trainable, max(zero["reduce_bucket_size"], parameters.largest))
    if engine.stage < 3:
        whole_gradients = engine.stage == 1 or engine.coalesce
        states = StateBytes(
            weights=whole,
            gradients=trained if whole_gradients else share,
            optimizer=share + moments / ranks,  # a float32 copy of the rank's share of the weights, and the moments
            reduction=0.0 if whole_gradients else bucket,
            update=bucket + (2 * share if whole_gradients else share),  # gradients flattened for the update
            loading=trained + share,  # weights flattened, then the copy of the share
        )
    else:
        live = FLOAT * min(parameters.total, zero.get("stage3_max_live_parameters", MAX_LIVE))
        states = StateBytes(
            weights=whole / ranks,
            gradients=trained if engine.coalesce else share,
            optimizer=moments / ranks,  # the share of the weights is itself what is updated
            gathered=live,
            reduction=bucket,
            update=bucket + share,
            loading=whole,  # the whole model on every rank's CPU before it is partitioned
        )
    return _offloaded(states, engine.offload, share)


def checkpoint_bytes(parameters: Parameters, *, optimizer: str) -> float:
    """One checkpoint of any engine, of all ranks together: trainable weights and the optimizer's moments."""
    return FLOAT * parameters.trainable * (1 + MOMENTS[optimizer])


def _torch(parameters: Parameters, ranks: int, optimizer: str) -> StateBytes:
    trained = FLOAT * parameters.trainable
    bucket = min(trained, max(BUCKET_BYTES, FLOAT * parameters.largest)) if ranks > 1 else 0
    return StateBytes(FLOAT * parameters.total, trained, MOMENTS[optimizer] * trained, update=bucket)


def _offloaded(states: StateBytes, offload: str, share: float) -> StateBytes:
    """Optimizer state and the gradients that it reads in CPU memory; with "all" the weights too."""
    if offload == "none":
        return states
    moved = states.optimizer + share
    values = states.__dict__ | {"optimizer": 0.0, "host": moved}
    if offload == "all":
        values |= {"weights": 0.0, "host": moved + states.weights}
    return StateBytes(**values)
