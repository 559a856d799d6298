"""The collator: cuts sequences into chunks, says what a chunk costs, and makes its padded tensors.

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
    """Cuts sequences into chunks of like length, each padded to its longest sequence.

    `padding`: the value per feature, 0 if a feature has none. `token_budget`: tokens of a chunk, padding included.
    Another layout overrides the methods; `inference.shared_prefix.SharedPrefixCollator` packs several sequences into
    one.
    """

    padding: Mapping[str, int]
    token_budget: int

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """The chunks of sequences of these lengths, as indices of the sequences (see `plan_chunks`)."""
        return plan_chunks(lengths, self.token_budget)

    def shape(self, lengths: Sequence[int], chunk: Sequence[int]) -> tuple[int, int]:
        """The shape of a chunk's tensors: rows, and tokens of each, padding included."""
        return len(chunk), max((int(lengths[index]) for index in chunk), default=0)

    def cost(self, lengths: Sequence[int], chunk: Sequence[int]) -> int:
        """The tokens of a chunk, padding included: what `token_budget` bounds."""
        rows, tokens = self.shape(lengths, chunk)
        return rows * tokens

    def collate(self, sequences: TokenSequences, chunk: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of a chunk, which a model is called with (see `pad`)."""
        return pad(sequences, chunk, self.padding)

    def per_sequence(self, values: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """What a model made of a chunk's `features`, with one leading axis: the chunk's sequences, in its order."""
        return values


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
    """Indices per chunk, longest sequences first, so that their number times the longest stays within `token_budget`.

    A sequence longer than the budget is a chunk of its own. The plan depends on the lengths alone (ties by index), not
    on the number of ranks, and sequences of like length share a chunk, so that little is padded.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    chunks: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if chunks and (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] <= token_budget:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks


def chunks_of_rank(chunks: Sequence[list[int]], rank: int, world_size: int) -> list[list[int]]:
    """The chunks of one rank, `chunks[rank::world_size]`, padded with empty chunks to the same number on every rank."""
    own = list(chunks[rank::world_size])
    rounds = -(-len(chunks) // world_size)
    return own + [[]] * (rounds - len(own))
