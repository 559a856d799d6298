"""Vectors of which a text has any number, in a folder of memory-mapped files: made by all ranks, block by block.

values.npy       [elements, dim] float32 or float16: the vectors of all rows, one row after the other
offsets.npy      where each row begins, and where the last ends, [rows + 1] int64
ids.jsonl        the id of each row, as a JSON string
ids.offsets.npy  where each line of ids.jsonl begins, [rows + 1]
meta.json        rows, elements, dim, precision, truncated, similarity, role, and the key: what they depend on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from inference.pieces.build import Form, encode_pieces, read_meta
from inference.quantize import DTYPES
from inference.runner import Runner
from inference.vector_files import Ids, write_ids
from tensors.ragged import Ragged

VALUES, OFFSETS = "values.npy", "offsets.npy"
PRECISIONS = ("fp32", "fp16")


def check_ragged_precision(precision: str) -> None:
    """Raise ValueError if several vectors per text are not stored in this precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"encode.precision={precision}: several vectors per text are stored as fp32 or fp16")


class RaggedForm(Form):
    """The vectors one after the other, and where the rows begin."""

    format = "plackett ragged vectors 1"
    what = "ragged vectors"

    def __init__(self, precision: str) -> None:
        check_ragged_precision(precision)
        self.precision, self.dtype = precision, DTYPES[precision]
        self.key = {"vectors": precision}

    def stored(self, rows: Any) -> Ragged:
        kept: Ragged = rows.with_values(rows.values.half() if self.precision == "fp16" else rows.values.float())
        return kept

    def write(self, stream: IO[bytes], rows: Ragged, num_cut: int) -> None:
        arrays = {"values": rows.values.cpu().numpy(), "sizes": rows.sizes.numpy(), "cut": np.array(num_cut)}
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # names, not options

    def join(self, folder: Path, pieces: Sequence[Path], ids: Sequence[str]) -> dict[str, Any]:
        sizes, cut, dim = [], 0, 0
        for piece in pieces:
            with np.load(piece) as arrays:  # which reads no array before it is asked for
                sizes.append(arrays["sizes"])
                cut += int(arrays["cut"])
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.concatenate(sizes).cumsum(dtype=np.int64)])
        values, place = None, 0
        for piece in pieces:
            with np.load(piece) as arrays:
                part = arrays["values"]
            if values is None:
                dim = part.shape[1]
                values = open_memmap(folder / VALUES, mode="w+", dtype=self.dtype, shape=(int(offsets[-1]), dim))
            values[place : place + len(part)] = part
            place += len(part)
        assert values is not None, "no blocks"
        values.flush()
        np.save(folder / OFFSETS, offsets)
        write_ids(folder, ids)
        shape = {"rows": len(ids), "elements": int(offsets[-1]), "dim": dim}
        return {**shape, "precision": self.precision, "truncated": cut}


class RaggedVectors:
    """The vectors of a folder that `encode_ragged` has made. None is read before it is asked for.

    Raises ValueError, in one line, if the folder holds none or is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = read_meta(folder, RaggedForm)
        self.precision: str = self.meta["precision"]
        self.dim: int = self.meta["dim"]
        self.similarity: str = self.meta["similarity"]
        self.key: dict[str, str] = self.meta["key"]
        try:
            self.stored = np.load(folder / VALUES, mmap_mode="r")
            self.offsets = np.load(folder / OFFSETS)
            self.ids = Ids(folder)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{folder} is broken ({error}): remove it, and make it again") from None
        shape = (self.meta["elements"], self.dim)
        rows = self.meta["rows"]
        is_whole = self.stored.shape == shape and self.stored.dtype == DTYPES[self.precision]
        if not is_whole or len(self) != rows or len(self.ids) != rows or self.offsets[-1] != shape[0]:
            raise ValueError(f"{folder} is broken (its files differ in size): remove it, and make it again")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        return int(self.stored.nbytes + self.offsets.nbytes)

    def block(self, start: int, stop: int) -> Ragged:
        """The vectors of rows [start, stop) as float32, ready to be compared by the similarity."""
        bounds = self.offsets[start : stop + 1]
        return self._as_rows(np.array(self.stored[bounds[0] : bounds[-1]]), np.diff(bounds))

    def rows(self, rows: Sequence[int] | np.ndarray | Tensor) -> Ragged:
        """The vectors of some rows, as `block` gives them."""
        chosen = np.asarray(rows, dtype=np.int64)
        parts = [self.stored[self.offsets[row] : self.offsets[row + 1]] for row in chosen.tolist()]
        none = np.empty((0, self.dim), dtype=self.stored.dtype)
        return self._as_rows(np.concatenate([none, *parts]), np.diff(self.offsets)[chosen])

    def _as_rows(self, values: np.ndarray, sizes: np.ndarray) -> Ragged:
        return Ragged(torch.from_numpy(values.astype(np.float32, copy=False)), torch.from_numpy(sizes))

    def slices(self, rows: int, values: int) -> list[slice]:
        """All rows in blocks of at most `rows`, which have at most `values` values unless it is one row."""
        found, start = [], 0
        while start < len(self):
            end = int(np.searchsorted(self.offsets, self.offsets[start] + values // self.dim, side="right")) - 1
            stop = min(max(end, start + 1), start + rows, len(self))
            found.append(slice(start, stop))
            start = stop
        return found

    def num_values(self, rows: slice) -> int:
        """The number of values of some rows."""
        start, stop, _ = rows.indices(len(self))
        return int(self.offsets[stop] - self.offsets[start]) * self.dim


def encode_ragged(
    runner: Runner, tokenizer: Any, texts: Mapping[str, str], folder: Path, *, precision: str = "fp32", **options: Any
) -> RaggedVectors:
    """Encode texts to `folder`, or open it if it has their vectors, by `encode_pieces` with these options. `precision`:
    fp32 or fp16. The bytes are the same on any number of ranks."""
    encode_pieces(RaggedForm(precision), runner, tokenizer, texts, folder, **options)
    return RaggedVectors(folder)
