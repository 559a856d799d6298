"""A trained embedding model: embeddings of queries and documents, and how similar they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from engines.distributed.process_group import device as own_device
from inference.local import embed_texts
from inference.runner import ModuleRunner, similarity_of
from models.loading.embedder import load_embedder
from plackett.arguments import (
    check_count,
    checked_device,
    checked_embeddings,
    checked_rows,
    checked_text,
    checked_texts,
    names_of_arguments,
)
from tensors.ragged import Ragged

Role = Literal["query", "document"]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of texts."""

    vectors: Any  # an array [texts, dim] float32; of a model with a vector per token a list of arrays [tokens, dim]
    cut: np.ndarray  # [texts] int32: tokens of the text that the model did not read, for its length


class Embedder:
    """Embeds texts in float32. An embedding depends on its text, role and prompt alone: it is the same, up to rounding
    (1e-6 of its size), in any batch, and bit by bit in any order of the same texts. An object may be used by several
    threads: one call runs at a time."""

    kind: ClassVar[Literal["embedder"]] = "embedder"

    def __init__(self, model: Any, device: str | torch.device | None = None) -> None:
        self.model = model.to(own_device() if device is None else checked_device(device)).eval()
        self._runner = ModuleRunner(self.model, next(self.model.parameters()).device)
        self._lock = Lock()

    @staticmethod
    def load(
        name_or_path: str | Path,
        *,
        max_length: int | None = None,
        device: str | torch.device | None = None,
        special_tokens: bool = False,
        trust_remote_code: bool = False,
    ) -> Embedder:
        """Load the embedding model of a folder or hub id. The options are those of `plackett.load`.

        Raises FileNotFoundError or ValueError, in one line, if it is not found or is no embedding model.
        """
        model = load_embedder(str(name_or_path), max_length, trust_remote_code=trust_remote_code)
        if special_tokens:
            model.tokenizer = replace(model.tokenizer, split_special_tokens=False)
        return Embedder(model, device)

    @property
    def max_length(self) -> int:
        """The most tokens of a text that are read, the prompt included."""
        max_length: int = self.model.tokenizer.max_length
        return max_length

    @property
    def dimension(self) -> int:
        """The dimension of an embedding, or of a token's vector."""
        dimension: int = self.model.dimension
        return dimension

    @property
    def pooling(self) -> str:
        """How the vectors of tokens become one: "mean", "cls", ..., several joined by "+"; empty: they stay several."""
        pooled_by: str = self.model.pooled_by
        return pooled_by

    @property
    def is_sparse(self) -> bool:
        """Whether an embedding has a weight for each token of the vocabulary, most of them 0."""
        return bool(self.model.search == "inverted")

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's prompts by name: "query" and "document" are those of the roles."""
        return dict(self.model.tokenizer.prompts)

    def encode(
        self,
        texts: Iterable[str],
        *,
        role: Role | None,
        prompt: str | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Compute the embedding of each text: an array [texts, dimension] float32. Of a model with a vector per token
        (late interaction) it is a list with an array [tokens, dimension] of each text.

        `role` has no default, because many models embed queries and documents differently, and nothing would tell of
        the wrong one. None: neither, the model's default prompt as in sentence-transformers' `encode`. `prompt`
        replaces the model's own. `batch_size`: the most texts of a forward pass; None: as many as fit into 1,024 tokens
        on a CPU, 8,192 on a GPU. Texts of similar length share a batch.

        Raises ValueError if an argument is not valid.
        """
        return self.embed(texts, role=role, prompt=prompt, batch_size=batch_size).vectors

    def embed(
        self,
        texts: Iterable[str],
        *,
        role: Role | None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """Compute the embedding of each text, and how much of it was cut. The options are those of `encode`;
        `show_progress`: show a bar, or lines in a log, if it takes long."""
        check_count("batch_size", batch_size)
        given, tokenizer = checked_texts("texts", texts), self.model.tokenizer
        tokenizer.prompt(role)  # raises ValueError if there is no such role
        if prompt is not None:
            with names_of_arguments():
                tokenizer = tokenizer.expecting([checked_text("prompt", prompt)])
        if not given:
            none: Any = [] if similarity_of(self.model).is_ragged else np.zeros((0, self.dimension), dtype=np.float32)
            return Embeddings(none, np.zeros(0, dtype=np.int32))
        with self._lock, names_of_arguments():
            vectors, cut = embed_texts(self._runner, tokenizer, given, role, prompt, batch_size, progress=show_progress)
        return Embeddings(_arrays(vectors), cut.sum(axis=1))

    def similarity(self, queries: Any, documents: Any) -> np.ndarray:
        """Compare each query with each document by the model's similarity (cosine, dot product, MaxSim): embeddings
        [queries, dim] and [documents, dim], or lists of token vectors [tokens, dim], as `encode` gives them ->
        [queries, documents] float32. They may be cut to their first dimensions, all alike. Raises ValueError if they
        are no embeddings of one dimension."""
        similarity = similarity_of(self.model)
        check: Any = partial(checked_rows, dim=self.dimension) if similarity.is_ragged else checked_embeddings
        given = (("queries", queries), ("documents", documents))
        ready = [similarity.comparable(check(name, vectors)) for name, vectors in given]
        if ready[0].shape[1] != ready[1].shape[1]:
            sizes = " and ".join(str(values.shape[1]) for values in ready)
            raise ValueError(f"queries and documents have {sizes} dimensions: cut them alike")
        return similarity.matrix(*ready).numpy()


def _arrays(vectors: Any) -> Any:
    """The embeddings as an array, or as a list of those of each text."""
    if not isinstance(vectors, Ragged):
        return vectors.numpy()
    return [own.numpy() for own in vectors.values.split(vectors.sizes.tolist())]
