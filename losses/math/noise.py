"""Random draws from one seed per list, so that batch, padding, device and rank do not change them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from losses.math.masking import on_host


def uniform_noise(seeds: Sequence[int], num_generations: int, mask: Tensor) -> Tensor:
    """Return uniform draws in (0, 1), [lists, G, n] float64, 1/2 at padding. mask: [lists, n] bool.

    Each list has its own CPU generator with its own seed, which draws [G, number of the list's documents]. So padding,
    the other lists, the device and the rank never change a draw, and a larger G only adds draws.

    Raises ValueError if there is not one seed per list.
    """
    if len(seeds) != len(mask):
        raise ValueError(f"{len(mask)} lists need as many seeds, got {len(seeds)}")
    on_cpu = on_host(mask)
    noise = torch.full((len(mask), num_generations, mask.shape[-1]), 0.5, dtype=torch.float64)
    for row, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        num_documents = int(on_cpu[row].sum())
        uniform = torch.rand(num_generations, num_documents, generator=generator, dtype=torch.float64)
        noise[row, :, on_cpu[row]] = uniform.clamp(min=torch.finfo(torch.float64).tiny)
    return noise.to(mask.device, non_blocking=True)
