"""The ranges in which a model's embeddings are stored as int8: kept while it is trained, exported and read again."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FILE = "int8_ranges.npy"  # of whole embeddings
FILE_OF_DIM = "int8_ranges_dim{}.npy"  # of their first dimensions
FILES = re.compile(r"int8_ranges(?:_dim([1-9]\d*))?\.npy")

logger = logging.getLogger(__name__)


class Int8Ranges(nn.Module):
    """The lowest and highest value of each dimension of all documents so far, [2, dim] float32 for each number of first
    dimensions that embeddings are cut to.

    They are buffers, so every engine saves them in its checkpoints. Nothing is observed yet where the lowest is
    infinity.
    """

    def __init__(self, ranges: Mapping[int, Tensor]) -> None:
        super().__init__()
        for dim, values in ranges.items():
            self.register_buffer(f"dim_{dim}", values)

    @classmethod
    def start(cls, dims: Iterable[int], saved: Int8Ranges | None = None) -> Int8Ranges:
        """Ranges of `dims`: the `saved` ones, and of other dims none yet."""
        nothing = torch.tensor([[math.inf], [-math.inf]])
        own = {} if saved is None else saved.known()
        return cls({dim: own.get(dim, nothing.repeat(1, dim)).clone() for dim in dims})

    @classmethod
    def read(cls, folder: Path, dimension: int | None) -> Int8Ranges | None:
        """Read the ranges of an exported model of that `dimension`; None if its folder has none.

        Raises ValueError if a file is broken.
        """
        files = [(found, file) for file in sorted(folder.glob("*.npy")) if (found := FILES.fullmatch(file.name))]
        ranges = {}
        for found, file in files:
            values = _read(file)
            dim = values.shape[1]
            if dimension is None or dim != int(found[1] or dimension) or dim > dimension:
                logger.warning(
                    "%s is of %s dimensions, the model gives %s: these ranges are not used", file, dim, dimension
                )
                continue
            ranges[dim] = values
        return cls(ranges) if ranges else None

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(int(name.removeprefix("dim_")) for name, _ in self.named_buffers())

    def known(self) -> dict[int, Tensor]:
        """The ranges [2, dim] by dim of those that something was observed for."""
        values = {dim: getattr(self, f"dim_{dim}") for dim in self.dims}
        return {dim: value for dim, value in values.items() if bool(value.isfinite().all())}

    @torch.no_grad()
    def joined(self, vectors: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The ranges of what was observed and of further vectors [n, dim], for each of `dims`. Nothing is kept."""
        joined = {}
        for dim in self.dims:
            low, high = getattr(self, f"dim_{dim}")
            rows = vectors[dim].float()
            joined[dim] = torch.stack([torch.cat([low[None], rows]).amin(0), torch.cat([high[None], rows]).amax(0)])
        return joined

    @torch.no_grad()
    def keep(self, ranges: Mapping[int, Tensor]) -> None:
        """Replace the ranges of some dims."""
        for dim, values in ranges.items():
            getattr(self, f"dim_{dim}").copy_(values)

    def save(self, folder: Path, dimension: int | None) -> None:
        """Write those that are known as numpy files [2, dim], which sentence-transformers' `quantize_embeddings` takes
        as `ranges`. `dimension`: that of whole embeddings."""
        for dim, values in self.known().items():
            name = FILE if dim == dimension else FILE_OF_DIM.format(dim)
            np.save(folder / name, values.cpu().numpy())


def _read(file: Path) -> Tensor:
    """Read [2, dim] float32. Raises ValueError if the file holds something else."""
    try:
        values = np.load(file)  # without pickles, its default
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file} cannot be read ({error}): remove it, or export the model again") from None
    numeric = values.dtype.kind == "f" and values.ndim == 2 and len(values) == 2 and values.shape[1] > 0
    if not numeric or not np.isfinite(values).all() or (values[0] > values[1]).any():
        raise ValueError(
            f"{file} holds no ranges: they are [2, dim] finite numbers, the lowest value of each dimension and the "
            "highest; remove it, or export the model again"
        )
    return torch.from_numpy(values.astype(np.float32))
