"""Texts that become vectors: their tokens and embeddings, by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from data.batch import TokenSequences
from data.collate import Collator
from data.store.texts import texts_of
from inference.encode import embed, tokenize_part, tokenize_texts
from inference.runner import Runner, row_collator, similarity_of
from inference.score import TOKENIZER_BATCH
from inference.vector_files import block_slices

Prompts = str | None | Sequence[str | None]  # one for all texts, or one for each; None: the model's own


@dataclass(frozen=True)
class TextSource:
    """What is encoded, and by what."""

    runner: Runner
    tokenizer: Any
    texts: Mapping[str, str]
    role: str
    prompts: Prompts
    token_budget: int
    dim: int | None

    @cached_property
    def collator(self) -> Collator:
        return row_collator(self.runner.model, self.tokenizer.padding, self.token_budget)

    @cached_property
    def by_row(self) -> Sequence[str]:
        return texts_of(self.texts)

    def prompts_of(self, rows: slice) -> list[str | None]:
        if self.prompts is None or isinstance(self.prompts, str):
            return [self.prompts] * (rows.stop - rows.start)
        return list(self.prompts[rows])

    def dimension(self) -> int:
        """The number of dimensions that are stored. One text is encoded, on all ranks, to know it."""
        own = self.of_rows(np.zeros(1, dtype=np.int64), cut=False).shape[1]
        if self.dim is not None and not 1 <= self.dim <= own:
            raise ValueError(f"dim={self.dim}: the model's embeddings have {own} dimensions, choose 1 to {own}")
        return self.dim or own

    def of_rows(self, rows: np.ndarray, *, cut: bool = True) -> np.ndarray:
        """The vectors of some rows, on all ranks."""
        prompts = [prompt for row in rows.tolist() for prompt in self.prompts_of(slice(row, row + 1))]
        sequences = tokenize_texts(self.tokenizer, [self.by_row[row] for row in rows.tolist()], self.role, prompts)
        return self.comparable(embed(self.runner, sequences, self.tokenizer, self.token_budget), cut=cut)

    def comparable(self, embeddings: Tensor, *, cut: bool = True) -> np.ndarray:
        similarity = similarity_of(self.runner.model)
        return similarity.comparable(embeddings, self.dim if cut else None).float().cpu().numpy()

    def tokens(self, rows: slice) -> TokenSequences:
        """The tokens of a block of rows."""
        texts, prompts = self.by_row[rows], self.prompts_of(rows)
        encoded = (
            tokenize_part(self.tokenizer, texts[part], self.role, prompts[part])
            for part in block_slices(len(texts), TOKENIZER_BATCH)
        )
        return TokenSequences.concatenate([TokenSequences.from_encoding(part) for part in encoded])
