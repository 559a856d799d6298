"""What a rank receives in a step, by the collectives that move it: for plans on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Traffic:
    """The collectives of one kind in a step: every rank sends as much as it receives."""

    name: str  # what they move, as in the statistics of a step: "gradients", "tokens", ...
    num_bytes: float  # that a rank receives by all of them
    calls: float = 1  # collectives
    hops: int = 1  # messages of a collective that follow each other
    behind: str = ""  # what goes on meanwhile: "backward", "objective", "step" (the one before); "": nothing
    backwards: float = 0  # those of so many chunks, if backwards go on
    on_host: bool = False  # between CPUs, by gloo, on every machine
    ranks: int | None = None  # that take part; None: all

    @property
    def messages(self) -> float:
        """The messages that follow each other in all of them."""
        return self.calls * self.hops

    def repeated(self, times: float) -> Traffic:
        """The same bytes so many times in a step."""
        return replace(self, num_bytes=times * self.num_bytes, calls=times * self.calls)

    def hidden(self, behind: str, backwards: float = 0) -> Traffic:
        """The same while something else goes on."""
        return replace(self, behind=behind, backwards=backwards)


def gathered(name: str, num_bytes: float, ranks: int, buckets: int = 1) -> Traffic:
    """The traffic of giving all ranks `num_bytes` of which each has a share, in `buckets` parts, around a ring."""
    return Traffic(name, num_bytes * (ranks - 1) / ranks, buckets, ranks - 1, ranks=ranks)


def summed(name: str, num_bytes: float, ranks: int, buckets: int = 1) -> Traffic:
    """The traffic of giving all ranks the sum of `num_bytes` that each has: twice a share of what each has of others.
    Messages are those of a tree, which NCCL takes where a ring would need more."""
    hops = 2 * math.ceil(math.log2(ranks))
    return Traffic(name, 2 * num_bytes * (ranks - 1) / ranks, buckets, hops, ranks=ranks)


def summed_in_shares(name: str, num_bytes: float, ranks: int, device: str, buckets: int = 1) -> Traffic:
    """The traffic of giving each rank a share of the sum of `num_bytes` that each has. gloo ("cpu") gives every rank
    all of it; NCCL ("cuda") does not."""
    return (gathered if device == "cuda" else summed)(name, num_bytes, ranks, buckets)


def num_buckets(num_bytes: float, bucket_bytes: float) -> int:
    """The number of collectives that move `num_bytes` in buckets of `bucket_bytes`."""
    return max(math.ceil(num_bytes / bucket_bytes), 1)
