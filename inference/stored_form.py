"""The form in which vectors are stored: their first dimensions, in a precision. What a search of them compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inference.quantize import DTYPES, stored_width
from losses.math.quantization import int8_values, signs
from losses.math.similarity import Similarity
from tensors.ragged import Rows, elements, like


@dataclass(frozen=True)
class StoredForm:
    """The first `dim` dimensions (None: all) in a precision of `inference.quantize.DTYPES`."""

    dim: int | None = None
    precision: str = "fp32"

    @property
    def suffix(self) -> str:
        """What stands behind the name of a metric: "/dim64/int8"."""
        return (f"/dim{self.dim}" if self.dim else "") + (f"/{self.precision}" if self.precision != "fp32" else "")

    @property
    def name(self) -> str:
        """What the form is called: "fp32", "int8", "dim64", "dim64/int8"."""
        return self.suffix[1:] or self.precision

    def vector_bytes(self, dimension: int) -> int:
        """The bytes of one stored vector of a model with so many dimensions."""
        return stored_width(self.precision, self.dim or dimension) * DTYPES[self.precision].itemsize

    def num_bytes(self, rows: Rows) -> int:
        """The bytes of stored rows [n, dim of the model]; of ragged ones those of all elements."""
        return self.vector_bytes(rows.shape[-1]) * len(elements(rows))

    def values(self, embeddings: Rows, similarity: Similarity, ranges: Tensor | None = None) -> Any:
        """What `StoredVectors.block` reads of stored embeddings [n, dim of the model], as float32 [n, dim]; of ragged
        ones the same of their elements. `ranges` of int8: [2, dim]."""
        rows = similarity.comparable(embeddings, self.dim)
        vectors = elements(rows)
        if self.precision == "int8":
            assert ranges is not None
            return like(rows, int8_values(vectors, ranges))
        if self.precision == "binary":
            return like(rows, signs(vectors))
        return like(rows, vectors.half().float()) if self.precision == "fp16" else rows
