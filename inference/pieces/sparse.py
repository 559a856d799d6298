"""Sparse vectors of texts in a folder, as a matrix of scipy: made by all ranks, block by block.

vectors.npz      [rows, dim] float32 (csr), for scipy.sparse.load_npz
ids.jsonl        the id of each row, as a JSON string
meta.json        rows, dim, nonzeros, similarity, role, and the key: what they depend on
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import scipy.sparse
from torch import Tensor

from inference.pieces.build import Form, encode_pieces
from inference.runner import Runner
from inference.vector_files import IDS, META

MATRIX = "vectors.npz"


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


class SparseForm(Form):
    """The values that are not 0."""

    format = "plackett sparse vectors 1"
    what = "sparse vectors"

    def write(self, stream: IO[bytes], rows: Tensor, num_cut: int) -> None:
        scipy.sparse.save_npz(stream, scipy.sparse.csr_array(rows.float().cpu().numpy()))

    def join(self, folder: Path, pieces: Sequence[Path], ids: Sequence[str]) -> dict[str, Any]:
        matrix = scipy.sparse.vstack([scipy.sparse.load_npz(piece) for piece in pieces], format="csr")
        scipy.sparse.save_npz(folder / MATRIX, matrix)
        (folder / IDS).write_text("".join(json.dumps(name) + "\n" for name in ids))
        return {"rows": matrix.shape[0], "dim": matrix.shape[1], "nonzeros": int(matrix.nnz)}


def encode_sparse(
    runner: Runner, tokenizer: Any, texts: Mapping[str, str], folder: Path, **options: Any
) -> SparseVectors:
    """Encode texts to `folder`, or open it if it has their vectors, by `encode_pieces` with these options. Rank 0 holds
    all that is not 0 at the end."""
    encode_pieces(SparseForm(), runner, tokenizer, texts, folder, **options)
    return SparseVectors.read(folder)
