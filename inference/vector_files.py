"""The files of stored vectors while they are written: blocks that are done are kept if the process is killed."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap

from inference.quantize import DTYPES, quantize, ranges_of, stored_width

FORMAT = "plackett vectors 1"
META, VECTORS, IDS, OFFSETS = "meta.json", "vectors.npy", "ids.jsonl", "ids.offsets.npy"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
IDS_AT_ONCE = 65536

# The names of a key's parts in messages.
PARTS = {
    "weights": "another model (other weights)",
    "architecture": "another model (another architecture or configuration)",
    "tokenizer": "a model with another tokenizer",
    "length": "another maximum length",
    "prompts": "a model with other prompts of its own",
    "int8_ranges": "a model with other int8 ranges",
    "precision": "a model that ran in another precision",
    "code": "another version of this code or its libraries",
    "texts": "other texts",
    "role": "another role of the texts",
    "prompt": "another prompt before the texts",
    "similarity": "another similarity",
    "vectors": "another precision",
    "dim": "another number of dimensions",
    "calibration": "another calibration",
}


@dataclass(frozen=True)
class Layout:
    """The vectors of a folder: their number, dimensions, precision and key, and how many are written at once."""

    rows: int
    dim: int
    precision: str
    block_rows: int
    calibrated: bool  # the ranges of int8 are known before the vectors are
    key: Mapping[str, str]

    @property
    def num_blocks(self) -> int:
        return -(-self.rows // self.block_rows)

    @property
    def first_precision(self) -> str:
        """The precision of the vectors as they are encoded: int8 needs the ranges of all of them first."""
        return "fp32" if self.precision == "int8" and not self.calibrated else self.precision

    def block(self, number: int) -> slice:
        return slice(number * self.block_rows, min((number + 1) * self.block_rows, self.rows))

    def num_bytes(self, precision: str) -> int:
        return self.rows * stored_width(precision, self.dim) * DTYPES[precision].itemsize

    @property
    def state(self) -> dict[str, Any]:
        """What has to be the same for a build to go on."""
        return {"rows": self.rows, "block_rows": self.block_rows, "key": dict(self.key)}


def difference(found: Mapping[str, Any], wanted: Mapping[str, str]) -> str:
    """What `found` is of, in words, that `wanted` is not; empty if the two keys are equal."""
    names = [name for name in PARTS if found.get(name) != wanted.get(name)]
    others = sorted(name for name in {*found, *wanted} - {*PARTS} if found.get(name) != wanted.get(name))
    words = [PARTS[name] for name in names] + [f"another {name}" for name in others]
    if "weights" in names:  # it is the reason for most that follows
        return words[0]
    return " and ".join(words[:2])


class Ids(Sequence[str]):
    """The ids by row, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._offsets = np.load(folder / OFFSETS, mmap_mode="r")
        with (folder / IDS).open("rb") as stream:
            self._lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._lines) != self._offsets[-1]:
            raise ValueError(f"{IDS} has {len(self._lines)} of its {self._offsets[-1]} bytes")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(index)
        return json.loads(self._lines[int(self._offsets[row]) : int(self._offsets[row + 1])])


def read_meta(folder: Path) -> dict[str, Any]:
    """What meta.json says. Raises ValueError if the folder holds no vectors."""
    meta = _read_json(folder / META)
    if meta is None or meta.get("format") != FORMAT:
        raise ValueError(f"{folder} holds no stored vectors ({META} is missing or of something else)")
    return meta


class VectorFiles:
    """The workspace beside the final folder. Rank 0 prepares and publishes it, all ranks write their blocks.

    A block is written to its place in the file of all vectors, then its marker: a small file with the number of texts
    that were cut and the ranges of its vectors.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self.workspace = workspace_of(folder)
        self.new = self.workspace / "folder"  # becomes `folder`
        self.markers = self.workspace / "blocks"
        self.first = self.new / VECTORS if layout.first_precision == layout.precision else self.workspace / "fp32.npy"

    def prepare(self) -> str:
        """Make the workspace, or keep that of a build that was interrupted. Returns what was found of another key, in
        words.

        Raises ValueError if the disk is too small.
        """
        state, found = self.workspace / "state.json", ""
        old = _read_json(state)
        if old == self.layout.state and self.first.is_file():
            return ""
        if old is not None:
            found = difference(old.get("key", {}), self.layout.key)
        shutil.rmtree(self.workspace, ignore_errors=True)
        self.new.mkdir(parents=True)
        self.markers.mkdir()
        self._check_space()
        self._allocate(self.first, self.layout.first_precision)
        if self.first.parent != self.new:
            self._allocate(self.new / VECTORS, self.layout.precision)
        state.write_text(json.dumps(self.layout.state))
        return found

    def needed_bytes(self) -> int:
        """The bytes of all files while they are written."""
        return sum(self.layout.num_bytes(p) for p in {self.layout.precision, self.layout.first_precision})

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.workspace).free
        if self.needed_bytes() > free:
            raise self._full(free)

    def _full(self, free: int) -> ValueError:
        """Give the space back. The error says how much is needed."""
        shutil.rmtree(self.workspace)
        return ValueError(
            f"{self.folder.parent} has no space for {self.folder.name}: {self.layout.rows:,} vectors of "
            f"{self.layout.dim} dimensions need {in_mebibytes(self.needed_bytes())}, {in_mebibytes(free)} are free: "
            "free some, choose another folder, or a smaller precision"
        )

    def _allocate(self, file: Path, precision: str) -> None:
        """Write a file of zeros whose space is taken already: the disk cannot be full in the middle."""
        shape = (self.layout.rows, stored_width(precision, self.layout.dim))
        open_memmap(file, mode="w+", dtype=DTYPES[precision], shape=shape).flush()
        if hasattr(os, "posix_fallocate"):  # Linux
            descriptor = os.open(file, os.O_RDWR)
            try:
                os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
            except OSError as error:
                if error.errno in FULL:
                    raise self._full(shutil.disk_usage(self.workspace).free) from None
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
            finally:
                os.close(descriptor)

    def saved_ranges(self, ranges: np.ndarray | None = None) -> np.ndarray | None:
        """The ranges of a calibration, kept in the workspace once they are given; None if there are none."""
        file = self.workspace / "ranges.npy"
        if ranges is not None:
            with file.with_suffix(".tmp").open("wb") as stream:
                np.save(stream, ranges)
            os.replace(file.with_suffix(".tmp"), file)
        return np.load(file) if file.is_file() else None

    def missing(self) -> list[int]:
        """The blocks that are not done."""
        done = {int(file.stem) for file in self.markers.glob("*.npy")}
        return [number for number in range(self.layout.num_blocks) if number not in done]

    def write(self, number: int, vectors: np.ndarray, cut: int, ranges: np.ndarray | None) -> None:
        """Write the vectors [rows, dim] float32 of a block, and its marker. `cut`: how many of its texts were cut.
        `ranges`: of int8, if they are known."""
        self._write_rows(self.first, number, quantize(vectors, self.layout.first_precision, ranges))
        marker = self.markers / f"{number:08d}.npy"
        temporary = marker.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.save(stream, np.concatenate([[cut], ranges_of(vectors).ravel()]).astype(np.float64))
        os.replace(temporary, marker)

    def _write_rows(self, file: Path, number: int, values: np.ndarray) -> None:
        rows = self.layout.block(number)
        assert len(values) == rows.stop - rows.start
        width = values.shape[1] * values.itemsize
        with file.open("r+b", buffering=0) as stream:
            begin = os.fstat(stream.fileno()).st_size - self.layout.rows * width
            left = np.ascontiguousarray(values).data.cast("B")
            place = begin + rows.start * width
            while left:
                written = os.pwrite(stream.fileno(), left, place)
                left, place = left[written:], place + written
            os.fdatasync(stream.fileno()) if hasattr(os, "fdatasync") else os.fsync(stream.fileno())

    def summary(self) -> tuple[int, np.ndarray]:
        """The number of texts that were cut, and the ranges [2, dim] float32 of all vectors."""
        cut, low, high = 0, np.full(self.layout.dim, np.inf), np.full(self.layout.dim, -np.inf)
        for number in range(self.layout.num_blocks):
            values = np.load(self.markers / f"{number:08d}.npy")
            own = values[1:].reshape(2, -1)
            cut, low, high = cut + int(values[0]), np.minimum(low, own[0]), np.maximum(high, own[1])
        return cut, np.vstack((low, high)).astype(np.float32)

    def requantize(self, numbers: Sequence[int], ranges: np.ndarray) -> None:
        """Write blocks of int8 from their float32 vectors. It may be done again."""
        vectors = np.load(self.first, mmap_mode="r")
        for number in numbers:
            values = quantize(np.asarray(vectors[self.layout.block(number)]), self.layout.precision, ranges)
            self._write_rows(self.new / VECTORS, number, values)

    def publish(self, ids: Sequence[str], meta: Mapping[str, Any]) -> None:
        """Write ids and meta data, and put the folder in its place. One of another key is replaced."""
        write_ids(self.new, ids)
        (self.new / META).write_text(json.dumps(meta, indent=1) + "\n")
        for written in (*self.new.iterdir(), self.new):
            _sync(written)
        if self.folder.exists():
            os.replace(self.folder, self.workspace / "replaced")
        os.replace(self.new, self.folder)
        shutil.rmtree(self.workspace)


def write_ids(folder: Path, ids: Sequence[str]) -> None:
    """Write the ids that `Ids` reads."""
    offsets = open_memmap(folder / OFFSETS, mode="w+", dtype=np.dtype("<u8"), shape=(len(ids) + 1,))
    place = 0
    with (folder / IDS).open("wb") as stream:
        for start in range(0, len(ids), IDS_AT_ONCE):
            lines = [json.dumps(name).encode() + b"\n" for name in ids[start : start + IDS_AT_ONCE]]
            stream.writelines(lines)
            ends = place + np.cumsum([len(line) for line in lines])
            offsets[start + 1 : start + 1 + len(lines)] = ends
            place = int(ends[-1])
    offsets.flush()


def workspace_of(folder: Path) -> Path:
    """The folder in which the vectors of `folder` are made."""
    return folder.with_name(f".making-{folder.name}")


def lock_of(folder: Path) -> FileLock:
    """Lock the making of `folder`, for as long as this process holds it. Raises ValueError if another one does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace_of(folder).with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder} is being made by another process: wait until it ends, or stop it") from None
    return lock


def release(lock: FileLock) -> None:
    """Release the lock and remove its file."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def block_slices(rows: int, block_rows: int) -> Iterator[slice]:
    """The blocks of `rows` rows."""
    for start in range(0, rows, block_rows):
        yield slice(start, min(start + block_rows, rows))


def in_mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
