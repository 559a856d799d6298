"""The form in which vectors are stored: their first dimensions, in a precision. What a search of them compares."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from inference.quantize import DTYPES, stored_width
from losses.math.quantization import int8_values, signs
from losses.math.similarity import Similarity


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

    def values(self, embeddings: Tensor, similarity: Similarity, ranges: Tensor | None = None) -> Tensor:
        """What `StoredVectors.block` reads of stored embeddings [n, dim of the model], as float32 [n, dim]. `ranges` of
        int8: [2, dim]."""
        vectors = similarity.comparable(embeddings, self.dim)
        if self.precision == "int8":
            assert ranges is not None
            return int8_values(vectors, ranges)
        if self.precision == "binary":
            return signs(vectors)
        return vectors.half().float() if self.precision == "fp16" else vectors
