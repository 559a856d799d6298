"""What a rank receives in a step, by the collectives that move it: for plans on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """The collectives of one kind in a step, as rings run them: every rank sends as much as it receives."""

    name: str  # what they move: "gradients", "weights", "representations", ...
    num_bytes: float  # that a rank receives by all of them
    calls: float  # collectives
    hops: int  # messages of a collective that follow each other
    backwards: float = 0  # backwards of a chunk during which they go on; 0: everything waits for them

    @property
    def messages(self) -> float:
        """The messages that follow each other in all of them."""
        return self.calls * self.hops


def all_gathered(
    name: str, num_bytes: float, ranks: int, *, times: float = 1, buckets: int = 1, backwards: float = 0
) -> Traffic:
    """The traffic of gathering `num_bytes`, of which each rank has a share, on all ranks; in `buckets` parts, and that
    `times` times."""
    return Traffic(name, times * num_bytes * (ranks - 1) / ranks, times * buckets, ranks - 1, backwards)


def reduce_scattered(
    name: str, num_bytes: float, ranks: int, *, times: float = 1, buckets: int = 1, backwards: float = 0
) -> Traffic:
    """The traffic of summing `num_bytes`, which every rank has, each rank getting a share of the sums."""
    return all_gathered(name, num_bytes, ranks, times=times, buckets=buckets, backwards=backwards)


def all_reduced(
    name: str, num_bytes: float, ranks: int, *, times: float = 1, buckets: int = 1, backwards: float = 0
) -> Traffic:
    """The traffic of summing `num_bytes`, which every rank has, on all ranks: shares are summed, then gathered."""
    return reduce_scattered(name, 2 * num_bytes, ranks, times=times, buckets=2 * buckets, backwards=backwards)


def num_buckets(num_bytes: float, bucket_bytes: float) -> int:
    """The number of collectives that move `num_bytes` in buckets of `bucket_bytes`."""
    return max(math.ceil(num_bytes / bucket_bytes), 1)
