"""What the files of an export hold: hashes of files, sums of the weights outside the layers."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from models.loading.folder import content_files, sha256

IN_A_LAYER = re.compile(r"\.\d+\.")
LARGEST = 1 << 22  # values of a tensor whose sums are kept: embeddings of words are larger


def file_hashes(folder: Path) -> dict[str, str]:
    """The hash of every file that loading may read, by its name below `folder`."""
    return {name: sha256.__wrapped__(file)[:16] for name, file in content_files(folder).items()}


def tensor_sums(folder: Path) -> dict[str, list[float]]:
    """The sums of each weight outside the layers (score head, projection, pooler, norms), by file and name: of its
    values, and of its values times a factor by place, which tells another order. Raises ValueError, in one line, if a
    file is no whole safetensors file."""
    sums = {}
    for name, file in content_files(folder).items():
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="pt") as weights:
                for key in sorted(weights.keys()):
                    if not IN_A_LAYER.search(key) and _size(weights.get_slice(key).get_shape()) <= LARGEST:
                        sums[f"{name}:{key}"] = _sums(weights.get_tensor(key))
        except SafetensorError as error:
            raise ValueError(f"{file}: not a whole safetensors file ({error}): copy it again") from None
    return sums


def _size(shape: list[int]) -> int:
    return torch.Size(shape).numel()


def _sums(tensor: torch.Tensor) -> list[float]:
    values = tensor.double().flatten()
    placed = values @ torch.linspace(1, 2, len(values), dtype=torch.double)
    return [float(f"{float(total):.9g}") for total in (values.sum(), placed)]
