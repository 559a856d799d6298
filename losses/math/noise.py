"""Random draws that are a function of what they are for: one key for each list."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def uniform_noise(keys: Sequence[int], num_generations: int, mask: Tensor) -> Tensor:
    """Uniform draws in (0, 1), [lists, G, n] float64, 1/2 at padding; mask: [lists, n] bool.

    Each list has its own CPU generator, seeded with its key and drawn as [G, number of its documents]: padding, the
    other lists, the device and the rank never change a draw, and a larger G only adds some.
    """
    if len(keys) != len(mask):
        raise ValueError(f"{len(mask)} lists need as many keys, got {len(keys)}")
    on_cpu = mask.cpu()
    noise = torch.full((len(mask), num_generations, mask.shape[-1]), 0.5, dtype=torch.float64)
    for row, key in enumerate(keys):
        generator = torch.Generator().manual_seed(key)
        num_documents = int(on_cpu[row].sum())
        uniform = torch.rand(num_generations, num_documents, generator=generator, dtype=torch.float64)
        noise[row, :, on_cpu[row]] = uniform.clamp(min=torch.finfo(torch.float64).tiny)
    return noise.to(mask.device)
