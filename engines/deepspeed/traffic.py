"""What a rank receives in a step under ZeRO: gradients, and weights that other ranks update or keep.

Source: the collectives that DeepSpeed 0.19.8 calls; the bytes that the kernel counted (docs/results.md) are these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.memory.state_bytes import FLOAT_BYTES, Parameters
from engines.traffic import Traffic, all_gathered, all_reduced, num_buckets


def zero_traffic(
    zero: Mapping[str, Any], parameters: Parameters, *, ranks: int, chunks: float, coalesce: bool
) -> list[Traffic]:
    """The traffic of each of `ranks` ranks in a step of `chunks` chunks. `zero`: the keys of DeepSpeed's
    `zero_optimization`."""
    stage = zero["stage"]
    size = FLOAT_BYTES * parameters.trainable
    buckets = num_buckets(size, FLOAT_BYTES * zero["reduce_bucket_size"])
    times = chunks if stage > 1 and not coalesce else 1
    overlapped = times if zero.get("overlap_comm", stage == 3) and not coalesce else 0
    gradients = all_reduced("gradients", size, ranks, times=times, buckets=buckets, backwards=overlapped)
    if stage == 0:
        return [gradients]
    return [gradients, all_gathered("weights", size, ranks, buckets=buckets)]
