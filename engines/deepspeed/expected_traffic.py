"""What a rank receives in a step under ZeRO: gradients, and the weights that other ranks update or keep.

Source: the collectives that DeepSpeed 0.19.8 calls. On gloo the kernel counted the same bytes (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.expected_traffic import Traffic, gathered, num_buckets, summed, summed_in_shares
from engines.memory.state_bytes import FLOAT_BYTES, Parameters


def zero_traffic(
    zero: Mapping[str, Any],
    parameters: Parameters,
    *,
    ranks: int,
    forwards: float,
    backwards: float,
    device: str,
    coalesce: bool,
) -> list[Traffic]:
    """The traffic of each of `ranks` ranks in a step of so many forwards and backwards of chunks. `zero`: the keys of
    DeepSpeed's `zero_optimization`.

    Stage 3 gathers every weight in a forward and in a backward. That is too much for frozen weights that no gradient
    passes, such as the embeddings below LoRA's layers.
    """
    stage = zero["stage"]
    size = FLOAT_BYTES * parameters.trainable
    buckets = num_buckets(size, FLOAT_BYTES * zero["reduce_bucket_size"])
    # Below stage 3 DeepSpeed sums the buckets on all ranks.
    once = summed_in_shares("gradients", size, ranks, device, buckets)
    once = once if stage == 3 else summed("gradients", size, ranks, buckets)
    times = backwards if stage > 1 and not coalesce else 1
    overlapped = times if zero.get("overlap_comm", stage == 3) and not coalesce else 0
    gradients = _overlapped(once.repeated(times), overlapped)
    if stage == 0:
        return [gradients]
    if stage < 3:
        return [gradients, gathered("weights", size, ranks, buckets)]
    weights = gathered("weights", FLOAT_BYTES * parameters.total, ranks).repeated(forwards + backwards)
    return [gradients, _overlapped(weights, overlapped)]


def _overlapped(traffic: Traffic, backwards: float) -> Traffic:
    return traffic.hidden("backward", backwards) if backwards else traffic
