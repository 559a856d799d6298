"""Vectors of texts in a folder of memory-mapped files: made by all ranks, and read without loading them.

vectors.npy      [rows, dim] float32, float16 or int8; binary: [rows, bytes] uint8
ids.jsonl        the id of each row, as a JSON string: an id may hold any character
ids.offsets.npy  where each line of ids.jsonl begins, [rows + 1]
meta.json        rows, dim, precision, similarity, role, ranges of int8 and of what, and the key: what they depend on
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from data.batch import TokenSequences
from data.store.texts import ids_of, texts_digest
from engines.distributed.collectives import all_agree, broadcast_object, on_main
from engines.distributed.process_group import barrier, is_main, rank, world_size
from inference.quantize import DTYPES, check_vector_precision, dequantize, ranges_of, stored_width
from inference.runner import Runner, int8_ranges_of, similarity_of
from inference.vector_files import (
    FORMAT,
    VECTORS,
    Ids,
    Layout,
    VectorFiles,
    block_slices,
    difference,
    in_mebibytes,
    lock_of,
    read_meta,
    release,
)
from inference.vector_source import Prompts, TextSource, encode_blocks, num_cut, prompts_digest

logger = logging.getLogger(__name__)

BLOCK_ROWS = 1024  # texts that a rank encodes at once: what a killed process loses


class StoredVectors:
    """The vectors of a folder that `encode_texts` has made. Nothing is read before it is asked for.

    Raises ValueError, in one line, if the folder holds none or is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = read_meta(folder)
        self.precision: str = self.meta["precision"]
        self.dim: int = self.meta["dim"]
        self.similarity: str = self.meta["similarity"]
        self.key: dict[str, str] = self.meta["key"]
        ranges = self.meta["ranges"]
        self.ranges = None if ranges is None else np.array(ranges, dtype=np.float32)  # [2, dim] of int8
        try:
            self.stored = np.load(folder / VECTORS, mmap_mode="r")
            self.ids = Ids(folder)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{folder} is broken ({error}): remove it, and make it again") from None
        shape = (self.meta["rows"], stored_width(self.precision, self.dim))
        if self.stored.shape != shape or self.stored.dtype != DTYPES[self.precision] or len(self.ids) != shape[0]:
            raise ValueError(f"{folder} is broken (its files differ in size): remove it, and make it again")

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def nbytes(self) -> int:
        return int(self.stored.nbytes)

    def block(self, start: int, stop: int) -> Tensor:
        """The vectors of rows [start, stop) as float32 [n, dim], ready to be compared by the similarity: int8 is
        dequantised, binary is 1 and -1."""
        return torch.from_numpy(dequantize(np.array(self.stored[start:stop]), self.precision, self.dim, self.ranges))

    def slices(self, rows: int, values: int) -> list[slice]:
        """All rows in blocks of at most `rows`, which have at most `values` values."""
        return list(block_slices(len(self), min(rows, max(1, values // self.dim))))

    def num_values(self, rows: slice) -> int:
        """The number of values of some rows, as `block` gives them."""
        return len(range(len(self))[rows]) * self.dim

    def rows(self, rows: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """The vectors of some rows, as `block` gives them."""
        chosen = np.asarray(self.stored[np.asarray(rows, dtype=np.int64)])
        return torch.from_numpy(dequantize(chosen, self.precision, self.dim, self.ranges))


def encode_texts(
    runner: Runner,
    tokenizer: Any,
    texts: Mapping[str, str],
    folder: Path,
    *,
    role: str,
    prompts: Prompts = None,
    precision: str = "fp32",
    token_budget: int,
    key: Mapping[str, str],
    dim: int | None = None,
    calibration: int | None = None,
    replace: bool = True,
    block_rows: int = BLOCK_ROWS,
) -> StoredVectors:
    """Encode texts, queries or documents (`role`), to `folder`, or open it if it has their vectors. Call it on all
    ranks.

    `key` names what the vectors depend on beside the texts and these arguments: `inference.fingerprint.model_key`. A
    folder or an unfinished one of another key is never read: a line says what differs, and it is made again (or, not
    to `replace`, ValueError is raised). Blocks of `block_rows` texts are shared over the ranks, so the bytes are the
    same on any number of them; a process that was killed goes on with the blocks that are missing. Memory holds one
    block. `dim`: only the first dimensions, of unit length under cosine. int8 takes the ranges that the model was
    trained with, if it has them for so many dimensions; else those of all texts (which needs the room of float32
    vectors while they are made). `calibration`: from so many texts, evenly spread, instead of both.

    Raises ValueError, in one line, if the disk is too small, the folder is another's, or a vector is not finite.
    """
    if not texts:
        raise ValueError(f"there are no texts to encode to {folder}")
    check_vector_precision(precision)
    own = int8_ranges_of(runner.model) if precision == "int8" and calibration is None else None
    known = {} if own is None else own.known()
    calibration = calibration if precision == "int8" and (calibration or len(texts)) < len(texts) else None
    whole_key = {
        **key,
        "texts": texts_digest(texts),
        "role": role,
        "prompt": prompts_digest(prompts),
        "similarity": similarity_of(runner.model).name,
        "vectors": precision,
        "dim": str(dim),
        "calibration": "the model's, if it has them" if known else str(calibration),
    }
    if not on_main(lambda: _is_there(folder, whole_key, replace=replace)):
        source = TextSource(runner, tokenizer, texts, role, prompts, token_budget, dim)
        width = source.dimension()
        ranges = known[width].cpu().numpy() if width in known else None
        is_calibrated = calibration is not None or ranges is not None
        layout = Layout(len(texts), width, precision, block_rows, is_calibrated, whole_key)
        with locked(folder):
            _make(VectorFiles(folder, layout), source, calibration, ranges)
    return StoredVectors(folder)


def _is_there(folder: Path, key: Mapping[str, str], *, replace: bool) -> bool:
    """Whether `folder` has the vectors of `key`. One of another key is said, or refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        other = difference(read_meta(folder)["key"], key)
    except ValueError as error:
        raise ValueError(f"{error}: it is left alone, choose another folder") from None
    if not other:
        StoredVectors(folder)  # else it is broken
        return True
    if not replace:
        raise ValueError(f"{folder} has vectors of {other}: choose another folder, or remove it")
    logger.warning("%s has vectors of %s: they are not read, and are made again", folder, other)
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the making of `folder`, on rank 0."""
    locks: list[FileLock] = []
    on_main(lambda: locks.append(lock_of(folder)))
    try:
        yield
    finally:
        for lock in locks:
            release(lock)


def _make(files: VectorFiles, source: TextSource, calibration: int | None, own: np.ndarray | None) -> None:
    """Encode what is missing, and put the folder in its place. `own`: the ranges that the model was trained with."""
    layout = files.layout
    ranges = _begin(files, source, calibration, own)
    _encode_missing(files, source, ranges)
    cut, all_ranges = on_main(files.summary)
    if layout.first_precision != layout.precision:
        ranges = all_ranges
        files.requantize(range(rank(), layout.num_blocks, world_size()), ranges)
        barrier()
    meta = {
        "format": FORMAT,
        "rows": layout.rows,
        "dim": layout.dim,
        "precision": layout.precision,
        "similarity": layout.key["similarity"],
        "role": source.role,
        "truncated": cut,
        "ranges": None if ranges is None else ranges.tolist(),
        "ranges_of": _origin(layout, calibration, own),
        "key": dict(layout.key),
    }
    on_main(lambda: files.publish(ids_of(source.texts), meta))


def _origin(layout: Layout, calibration: int | None, own: np.ndarray | None) -> str | None:
    """What the ranges of int8 were taken from, in words; None of another precision."""
    if layout.precision != "int8":
        return None
    if own is not None:
        return "the model"
    return f"{calibration or layout.rows} texts"


def _begin(
    files: VectorFiles, source: TextSource, calibration: int | None, own: np.ndarray | None
) -> np.ndarray | None:
    """Prepare the files, say what is to do, and find the ranges of int8 in a sample if there is to be one."""
    other, layout = on_main(files.prepare), files.layout
    if not all_agree(files.first.is_file()):
        raise ValueError(f"{files.folder.parent} is not the same folder on all nodes: choose a shared one")
    if is_main():
        _say(files, source.role, other, _origin(layout, calibration, own))
    if calibration is None:
        return own
    ranges = broadcast_object(files.saved_ranges() if is_main() else None)
    if ranges is None:
        rows = np.arange(calibration) * layout.rows // calibration
        parts = [source.of_rows(rows[part]) for part in block_slices(calibration, layout.block_rows)]
        ranges = ranges_of(np.concatenate([ranges_of(part) for part in parts]))
        on_main(lambda: files.saved_ranges(ranges))
    return ranges


def _say(files: VectorFiles, role: str, other: str, ranges_of: str | None) -> None:
    layout, done = files.layout, files.layout.num_blocks - len(files.missing())
    if other:
        logger.warning("%s: what was begun is of %s: it is not used, and is made again", files.folder, other)
    going_on = f"; {done:,} of {layout.num_blocks:,} blocks are there already" if done else ""
    room = f"; {in_mebibytes(files.needed_bytes())} while they are made" if files.first.parent != files.new else ""
    ranges = f" in the ranges of {ranges_of}" if ranges_of else ""
    logger.warning(
        "encoding %s texts (%s) to %s: %s dimensions, %s%s, %s%s%s",
        f"{layout.rows:,}", role, files.folder, f"{layout.dim:,}", layout.precision, ranges,
        in_mebibytes(layout.num_bytes(layout.precision)), room, going_on,
    )  # fmt: skip


def _encode_missing(files: VectorFiles, source: TextSource, ranges: np.ndarray | None) -> None:
    """Encode the blocks that are missing, each on one rank."""
    blocks = list(block_slices(files.layout.rows, files.layout.block_rows))
    missing = broadcast_object(files.missing() if is_main() else [])

    def write(number: int, found: Tensor, sequences: TokenSequences) -> None:
        _write(files, source, number, found, sequences, ranges)

    encode_blocks(source, blocks, missing, write)


def _write(
    files: VectorFiles,
    source: TextSource,
    number: int,
    found: Tensor,
    sequences: TokenSequences,
    ranges: np.ndarray | None,
) -> None:
    """Write a block, given its embeddings. Raises ValueError if one is not finite."""
    vectors = source.comparable(found)
    first = files.layout.block(number).start
    limit = np.finfo(DTYPES[files.layout.precision]).max if files.layout.precision == "fp16" else np.inf
    wrong = ~(np.abs(vectors) < limit).all(axis=1)
    if wrong.any():
        name = ids_of(source.texts)[first + int(wrong.argmax())]
        remedy = "choose fp32" if np.isfinite(vectors).all() else "check the weights, and its precision"
        raise ValueError(f"the embedding of {name!r} is not finite in {files.layout.precision}: {remedy}")
    files.write(number, vectors, num_cut(sequences), ranges)
