"""Tokenised rows and candidate lists: what the workers make and the trainers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenRows:
    """Ragged tokenised rows: `features[name]` holds the rows one after the other, `lengths[r]` tokens each."""

    features: Mapping[str, np.ndarray]
    lengths: np.ndarray

    @classmethod
    def from_encoding(cls, encoding: Mapping[str, Sequence[Sequence[int]]]) -> TokenRows:
        """From a tokenizer's unpadded output (lists of lists); the attention mask is implied by the lengths."""
        lengths = np.array([len(row) for row in encoding["input_ids"]], dtype=np.int32)
        features = {
            name: np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(lengths.sum()))
            for name, rows in encoding.items()
            if name != "attention_mask"
        }
        return cls(features, lengths)

    @classmethod
    def concatenate(cls, parts: Sequence[TokenRows]) -> TokenRows:
        names = parts[0].features.keys()
        features = {name: np.concatenate([part.features[name] for part in parts]) for name in names}
        return cls(features, np.concatenate([part.lengths for part in parts]))

    def __len__(self) -> int:
        return len(self.lengths)

    def pad(self, rows: Sequence[int], padding: Mapping[str, int]) -> dict[str, Tensor]:
        """The chosen rows as int64 tensors [len(rows), longest], right-padded with `padding[name]` (0 where unnamed),
        with `attention_mask`."""
        lengths = self.lengths[list(rows)]
        starts = np.concatenate([[0], np.cumsum(self.lengths)])[list(rows)]
        mask = np.arange(lengths.max())[None, :] < lengths[:, None]
        batch = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
        for name, values in self.features.items():
            padded = np.full(mask.shape, padding.get(name, 0), dtype=np.int64)
            padded[mask] = np.concatenate([values[s : s + n] for s, n in zip(starts, lengths, strict=True)])
            batch[name] = torch.from_numpy(padded)
        return batch


@dataclass(frozen=True)
class ListExample:
    """One query with its candidate documents, tokenised: row i of `rows` is the pair (query, document i)."""

    query_id: str
    document_ids: list[str]
    labels: np.ndarray  # [n] float32 graded relevance, 0 = not relevant or not judged
    teacher_scores: np.ndarray  # [n] float32 score of the first stage or teacher, NaN where it has none: no loss reads
    # it yet, distillation will
    rows: TokenRows


@dataclass(frozen=True)
class ListBatch:
    """The lists of one whole global step, in the same order on every rank.

    `number` counts batches from 0 over the whole run: with the list's position it keys every random draw.
    """

    number: int
    examples: list[ListExample]

    @cached_property
    def rows(self) -> TokenRows:
        """The rows of all lists, one list after the other."""
        return TokenRows.concatenate([example.rows for example in self.examples])

    @cached_property
    def mask(self) -> Tensor:
        """[lists, longest list] bool: True at documents, False at padding."""
        sizes = torch.tensor([len(example.document_ids) for example in self.examples])
        return torch.arange(int(sizes.max())) < sizes[:, None]

    @cached_property
    def labels(self) -> Tensor:
        """[lists, longest list] float32, 0 at padding."""
        return self.to_lists(torch.from_numpy(np.concatenate([example.labels for example in self.examples])))

    @cached_property
    def teacher_scores(self) -> Tensor:
        """[lists, longest list] float32, NaN where there is none, 0 at padding."""
        return self.to_lists(torch.from_numpy(np.concatenate([example.teacher_scores for example in self.examples])))

    def to_lists(self, values: Tensor) -> Tensor:
        """[rows] -> [lists, longest list], 0 at padding (differentiable)."""
        mask = self.mask.to(values.device)
        return values.new_zeros(mask.shape).masked_scatter(mask, values)
