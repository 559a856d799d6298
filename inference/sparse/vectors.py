"""Sparse vectors of texts in a folder, as a matrix of scipy: made by all ranks, block by block.

vectors.npz      [rows, dim] float32 (csr), for scipy.sparse.load_npz
ids.jsonl        the id of each row, as a JSON string
meta.json        rows, dim, nonzeros, similarity, role, and the key: what they depend on
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from data.collection import content_hash
from data.progress import Progress
from data.store.texts import ids_of, texts_digest
from engines.distributed.collectives import gather_objects, on_main
from engines.distributed.process_group import rank, world_size
from engines.memory.allocator import return_freed_memory
from inference.runner import Runner, similarity_of
from inference.score import run_chunks
from inference.vector_files import IDS, META, block_slices, difference, workspace_of
from inference.vector_source import Prompts, TextSource
from inference.vectors import locked

FORMAT = "plackett sparse vectors 1"
MATRIX = "vectors.npz"
BLOCK_ROWS = 256  # texts that a rank encodes at once, dense: what a killed process loses


@dataclass(frozen=True)
class SparseVectors:
    """The matrix of a folder that `encode_sparse` has made, and what meta.json says of it."""

    folder: Path
    matrix: scipy.sparse.csr_array
    meta: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> SparseVectors:
        """Raises ValueError, in one line, if the folder is broken."""
        try:
            meta = json.loads((folder / META).read_text())
            matrix = scipy.sparse.csr_array(scipy.sparse.load_npz(folder / MATRIX))
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{folder} is broken ({error}): remove it, and make it again") from None
        return cls(folder, matrix, meta)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.matrix.data, self.matrix.indices, self.matrix.indptr))


def encode_sparse(
    runner: Runner,
    tokenizer: Any,
    texts: Mapping[str, str],
    folder: Path,
    *,
    role: str,
    prompts: Prompts = None,
    token_budget: int,
    key: Mapping[str, str],
    block_rows: int = BLOCK_ROWS,
) -> SparseVectors:
    """Encode texts, queries or documents (`role`), to `folder`, or open it if it has their vectors. Call it on all
    ranks. `key`: as of `inference.vectors.encode_texts`. A process that was killed goes on with the blocks that are
    missing. Rank 0 holds all that is not 0 at the end.

    Raises ValueError, in one line, if the folder is another's, or a vector is not finite.
    """
    if not texts:
        raise ValueError(f"there are no texts to encode to {folder}")
    whole_key = {
        **key,
        "texts": texts_digest(texts),
        "role": role,
        "prompt": content_hash([prompts if prompts is None or isinstance(prompts, str) else list(prompts)]),
        "similarity": similarity_of(runner.model).name,
    }
    if not on_main(lambda: _is_there(folder, whole_key)):
        source = TextSource(runner, tokenizer, texts, role, prompts, token_budget, None)
        with locked(folder):
            _make(folder, source, whole_key, list(block_slices(len(texts), block_rows)))
    return SparseVectors.read(folder)


def _is_there(folder: Path, key: Mapping[str, str]) -> bool:
    """Whether `folder` has the vectors of `key`. One of anything else is refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        meta = json.loads((folder / META).read_text())
    except (OSError, ValueError):
        meta = {}
    if meta.get("format") != FORMAT:
        raise ValueError(f"{folder} holds no sparse vectors: it is left alone, choose another folder")
    if other := difference(meta["key"], key):
        raise ValueError(f"{folder} has vectors of {other}: choose another folder, or remove it")
    return True


def _make(folder: Path, source: TextSource, key: Mapping[str, str], blocks: list[slice]) -> None:
    work = workspace_of(folder)
    on_main(lambda: _prepare(work, {"key": dict(key), "blocks": len(blocks)}))
    problem = None
    with Progress("encoding", len(source.texts), "texts") as progress:
        for number in range(rank(), len(blocks), world_size()):
            file = work / f"{number:08d}.npz"
            if not file.is_file() and problem is None:
                problem = _write_block(file, source, blocks[number])
                return_freed_memory()
            progress.advance((blocks[number].stop - blocks[number].start) * world_size())
    if problems := [each for each in gather_objects(problem) if each is not None]:
        raise problems[0]
    on_main(lambda: _publish(folder, work, source, key, len(blocks)))


def _prepare(work: Path, state: Mapping[str, Any]) -> None:
    """Make the workspace, or keep that of the same vectors."""
    file = work / "state.json"
    if file.is_file() and json.loads(file.read_text()) == state:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    file.write_text(json.dumps(state))


def _write_block(file: Path, source: TextSource, rows: slice) -> Exception | None:
    """Encode and write the vectors of some rows. Returns the error if it fails."""
    sequences = source.tokens(rows)
    plan = source.collator.plan(sequences.lengths.tolist())
    found = torch.cat(
        [each["embedding"].cpu() for each in run_chunks(source.runner, sequences, source.collator, plan, ["embedding"])]
    )
    order = np.array([index for chunk in plan for index in chunk]).argsort()
    vectors = source.comparable(found[torch.from_numpy(order)])
    try:
        if (wrong := ~np.isfinite(vectors).all(axis=1)).any():
            name = ids_of(source.texts)[rows.start + int(wrong.argmax())]
            raise ValueError(f"the vector of {name!r} is not finite: check the weights, and its precision")
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            scipy.sparse.save_npz(stream, scipy.sparse.csr_array(vectors))
        os.replace(temporary, file)
    except (ValueError, OSError) as error:
        return error
    return None


def _publish(folder: Path, work: Path, source: TextSource, key: Mapping[str, str], blocks: int) -> None:
    """Join the blocks, and put the folder in its place."""
    matrix = scipy.sparse.vstack([scipy.sparse.load_npz(work / f"{n:08d}.npz") for n in range(blocks)], format="csr")
    new = work / "folder"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    scipy.sparse.save_npz(new / MATRIX, matrix)
    (new / IDS).write_text("".join(json.dumps(name) + "\n" for name in ids_of(source.texts)))
    meta = {
        "format": FORMAT,
        "rows": matrix.shape[0],
        "dim": matrix.shape[1],
        "nonzeros": int(matrix.nnz),
        "similarity": key["similarity"],
        "role": source.role,
        "key": dict(key),
    }
    (new / META).write_text(json.dumps(meta, indent=1) + "\n")
    if folder.exists():  # an empty one
        folder.rmdir()
    os.replace(new, folder)
    shutil.rmtree(work)
