"""The memory of a rank under ZeRO, without activations: weights, gradients, optimizer state and buffers, in bytes.

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
https://arxiv.org/abs/1910.02054, and what DeepSpeed 0.19.8 allocates in addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engines.memory.state_bytes import FLOAT_BYTES, Parameters, StateBytes, moment_bytes

STAGE_0_BUCKET = 500_000_000  # elements: DeepSpeed's bucket for reductions without ZeRO
MAX_LIVE = 1_000_000_000  # elements: ZeRO-3's stage3_max_live_parameters


def zero_state_bytes(
    zero: Mapping[str, Any], parameters: Parameters, *, ranks: int, optimizer: str, offload: str, coalesce: bool
) -> StateBytes:
    """The memory of each of `ranks` ranks. `zero`: the keys of DeepSpeed's `zero_optimization`."""
    stage = zero["stage"]
    whole, trained = FLOAT_BYTES * parameters.total, FLOAT_BYTES * parameters.trainable
    moments = moment_bytes(parameters, optimizer)
    if stage == 0:
        bucket = FLOAT_BYTES * min(parameters.trainable, STAGE_0_BUCKET) if ranks > 1 else 0
        return StateBytes(whole, trained, moments, update=bucket)
    share = trained / ranks
    bucket = FLOAT_BYTES * min(parameters.trainable, max(zero["reduce_bucket_size"], parameters.largest))
    if stage < 3:
        buffers = 2 if zero.get("overlap_comm") else 1  # one is summed while a backward fills the other
        whole_gradients = stage == 1 or coalesce
        states = StateBytes(
            weights=whole,
            gradients=trained if whole_gradients else share,
            optimizer=share + moments / ranks,  # a float32 copy of the rank's part of the weights, and the moments
            reduction=0.0 if whole_gradients else buffers * bucket,
            update=buffers * bucket + (2 * share if whole_gradients else share),  # gradients flattened for the update
            loading=trained + share,  # the flattened weights, then the copy of the rank's part
        )
    else:
        live = FLOAT_BYTES * min(parameters.total, zero.get("stage3_max_live_parameters", MAX_LIVE))
        states = StateBytes(
            weights=whole / ranks,
            gradients=trained if coalesce else share,
            optimizer=moments / ranks,  # no copy: the rank's part of the weights is updated itself
            gathered=live,
            reduction=bucket,
            update=bucket + share,
            loading=whole,  # the full model on the CPU of every rank, before it is partitioned
        )
    return _offloaded(states, offload, share)


def _offloaded(states: StateBytes, offload: str, share: float) -> StateBytes:
    """Move the optimizer state and the gradients that it reads to CPU memory; with "all" the weights too."""
    if offload == "none":
        return states
    moved = states.optimizer + share
    if offload == "all":
        return replace(states, optimizer=0.0, weights=0.0, host=moved + states.weights)
    return replace(states, optimizer=0.0, host=moved)
