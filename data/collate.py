"""The collator: cut sequences into chunks, and make the padded tensors of a chunk.

A chunk is the unit of one forward pass, of memory and of dropout's random key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batch import TokenSequences


@dataclass(frozen=True)
class Collator:
    """How sequences are cut into chunks and laid out: padded to the longest of a chunk.

    `padding`: the value per feature, 0 if a feature has none. `token_budget`: tokens of a chunk, padding included.
    """

    padding: Mapping[str, int]
    token_budget: int

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """The chunks of sequences of these lengths, as indices (see `plan_chunks`)."""
        return plan_chunks(lengths, self.token_budget)

    def cost(self, lengths: Sequence[int]) -> int:
        """The tokens, padding included, of one chunk of sequences of these lengths."""
        return len(lengths) * max(lengths, default=0)

    def collate(self, sequences: TokenSequences, chosen: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of a chunk (see `pad`)."""
        return pad(sequences, chosen, self.padding)


def pad(sequences: TokenSequences, chosen: Sequence[int], padding: Mapping[str, int]) -> dict[str, Tensor]:
    """The chosen sequences as int64 tensors [chosen, longest], right-padded with `padding[name]` (0 without), and
    their `attention_mask`."""
    lengths = sequences.lengths[list(chosen)]
    starts = np.concatenate([[0], np.cumsum(sequences.lengths)])[list(chosen)]
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    batch = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
    for name, values in sequences.features.items():
        padded = np.full(mask.shape, padding.get(name, 0), dtype=np.int64)
        padded[mask] = np.concatenate([values[s : s + n] for s, n in zip(starts, lengths, strict=True)])
        batch[name] = torch.from_numpy(padded)
    return batch


def plan_chunks(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Row indices per chunk, longest rows first, so that rows times the longest row stays within `token_budget`.

    A row longer than the budget is a chunk of its own. The plan depends on the lengths alone (ties by index), not on
    the number of ranks, and rows of like length share a chunk, so that little is padded.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    chunks: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if chunks and (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] <= token_budget:
            chunks[-1].append(row)
        else:
            chunks.append([row])
    return chunks


def chunks_of_rank(chunks: Sequence[list[int]], rank: int, world_size: int) -> list[list[int]]:
    """The chunks of one rank, `chunks[rank::world_size]`, padded with empty chunks to the same number on every rank."""
    own = list(chunks[rank::world_size])
    rounds = -(-len(chunks) // world_size)
    return own + [[]] * (rounds - len(own))
