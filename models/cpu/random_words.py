"""Dropout masks on the CPU from random words: a value is dropped if its word is below a threshold.

A word is a byte if a probability in 256ths is within 2 % of the one that was asked for, else 16 bits. So .1 becomes
26/256 = .1016, .05 13/256 = .0508 and .01 655/65536 = .00999. What is kept is divided by the exact probability of
keeping it, so the expectation is exact. `torch.bernoulli_` takes about 20 times as long per value.

The words come from SFC64 (numpy), keyed by one number that is drawn from torch's generator. So they follow from
`torch.manual_seed`, also when a chunk is recomputed by GradCache or by gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

BLOCK_BYTES = 2**21  # of words that one key makes: about 0.4 ms of one core
TOLERANCE = 0.02  # of a probability in 256ths, relative


@dataclass(frozen=True)
class DropRule:
    """The words that are dropped for a probability: those below `threshold`."""

    dtype: torch.dtype
    threshold: int
    probability: float  # the exact one

    @classmethod
    def of(cls, probability: float) -> DropRule:
        """The rule for a probability in (0, 1)."""
        of_256 = round(probability * 256)
        if abs(of_256 / 256 - probability) <= TOLERANCE * min(probability, 1 - probability):
            return cls(torch.uint8, of_256, of_256 / 256)
        of_65536 = min(max(round(probability * 65536), 1), 65535)
        return cls(torch.int16, of_65536 - 32768, of_65536 / 65536)  # torch compares 16 bits as signed

    @property
    def scale(self) -> float:
        """What kept values are multiplied by."""
        return 1 / (1 - self.probability)

    def write_kept(self, words: Tensor, kept: Tensor) -> Tensor:
        """Write 1 to `kept` for each word that is kept, else 0. To write floats is faster than to write bools, and so
        is multiplying by them."""
        return torch.ge(words, self.threshold, out=kept)


def draw_words(rule: DropRule, count: int, like: Tensor) -> Tensor:
    """Draw `count` words of the rule's type. On fake tensors (as `like`) they have no values."""
    if isinstance(like, FakeTensor):
        return torch.empty(count, dtype=rule.dtype)
    key = int(torch.randint(2**63 - 1, (), dtype=torch.int64))
    num_bytes = count * rule.dtype.itemsize
    sizes = [min(BLOCK_BYTES, num_bytes - start) for start in range(0, num_bytes, BLOCK_BYTES)]
    if len(sizes) <= 1:
        words = torch.from_numpy(_block(key, 0, num_bytes))
    else:
        words = torch.empty(num_bytes, dtype=torch.uint8)
        parts = words.split(BLOCK_BYTES)
        for part, block in zip(parts, _blocks(key, sizes), strict=True):
            part.copy_(torch.from_numpy(block))
    return words.view(rule.dtype)


def _blocks(key: int, sizes: list[int]) -> Iterator[np.ndarray]:
    """The blocks of a key in turn, made on as many threads as torch computes on. They are the same on any number."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield from (_block(key, index, size) for index, size in enumerate(sizes))
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(_block, [key] * len(sizes), range(len(sizes)), sizes)


def _block(key: int, index: int, num_bytes: int) -> np.ndarray:
    """A block of random bytes. numpy makes it without holding Python's lock."""
    generator = np.random.Generator(np.random.SFC64([key, index]))
    return generator.integers(2**64, size=-(-num_bytes // 8), dtype=np.uint64).view(np.uint8)[:num_bytes]
