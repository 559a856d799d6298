"""What a rank receives in a step under ZeRO: gradients, and the weights that other ranks update or keep.

Source: the collectives that DeepSpeed 0.19.8 calls. On gloo the kernel counted the same bytes (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.expected_traffic import Traffic, all_gathered, all_reduced, num_buckets, reduce_scattered
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
    times = backwards if stage > 1 and not coalesce else 1
    overlapped = times if zero.get("overlap_comm", stage == 3) and not coalesce else 0
    # Below stage 3 DeepSpeed sums the buckets on all ranks. gloo does so where it is asked to scatter, too.
    reduced = reduce_scattered if stage == 3 and device == "cuda" else all_reduced
    gradients = reduced("gradients", size, ranks, times=times, buckets=buckets, backwards=overlapped)
    if stage == 0:
        return [gradients]
    if stage < 3:
        return [gradients, all_gathered("weights", size, ranks, buckets=buckets)]
    whole = FLOAT_BYTES * parameters.total
    gathered = all_gathered("weights", whole, ranks, times=forwards + backwards, backwards=overlapped)
    return [gradients, gathered]
