"""The collator: divide sequences into chunks, compute the cost of a chunk, and make its padded tensors.

A chunk is the unit of a forward pass, of memory, and of dropout's random seed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batch import Repeats, TokenSequences

UNPACKED = 2  # how much larger than the token budget a packed chunk may be with its padding


@dataclass(frozen=True)
class Collator:
    """Divides sequences into chunks of similar length, each padded to its longest sequence.

    `padding`: the padding value of each feature, 0 if it has none. `token_budget`: tokens of a chunk, padding included.
    A subclass may use another layout: `inference.shared_prefix.SharedPrefixCollator` packs several sequences into
    one. `inference.runner.row_collator` makes the one that fits a model.
    """

    padding: Mapping[str, int]
    token_budget: int

    def of_lists(self, sequences: TokenSequences, sizes: Sequence[int], repeats: Repeats | None = None) -> Collator:
        """The collator of these sequences, which come list after list, list i having `sizes[i]`: this one, if its
        layout does not depend on the lists. `repeats`: only the first of equal ones run, and the collator counts these
        alone."""
        return self

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Divide sequences of these lengths into chunks of indices (see `plan_chunks`)."""
        return plan_chunks(lengths, self.token_budget)

    def shape(self, lengths: Sequence[int], chunk: Sequence[int]) -> tuple[int, int]:
        """The shape of a chunk's tensors: rows, and tokens of each, padding included."""
        return len(chunk), max((int(lengths[index]) for index in chunk), default=0)

    def describe(self, lengths: Sequence[int], chunk: Sequence[int]) -> str:
        """A chunk in words, for messages."""
        return "a chunk of {} rows of {} tokens".format(*self.shape(lengths, chunk))

    def num_tokens(self, lengths: Sequence[int], chunk: Sequence[int]) -> int:
        """The tokens of a chunk that are computed, without padding."""
        return sum(int(lengths[index]) for index in chunk)

    def cost(self, lengths: Sequence[int], chunk: Sequence[int]) -> int:
        """The tokens of a chunk, padding included: what `token_budget` bounds."""
        rows, tokens = self.shape(lengths, chunk)
        return rows * tokens

    def collate(self, sequences: TokenSequences, chunk: Sequence[int]) -> dict[str, Tensor]:
        """Make the tensors of a chunk, the inputs of a model (see `pad`)."""
        return pad(sequences, chunk, self.padding)

    def per_sequence(self, values: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Convert a model's output for a chunk's `features` to one row per sequence of the chunk, in its order."""
        return values


class PackedCollator(Collator):
    """A collator for models that run the rows of a chunk as one, without padding (`models/packing/rows.py`): a chunk
    holds `token_budget` tokens of its sequences. Its tensors are the same, since the model packs them itself.

    What is made of the last layer is padded again, so rows times longest sequence are at most twice the budget.
    """

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        return plan_chunks(lengths, self.token_budget, UNPACKED)

    def shape(self, lengths: Sequence[int], chunk: Sequence[int]) -> tuple[int, int]:
        """One row of all tokens, as the model runs it."""
        return int(bool(chunk)), sum(int(lengths[index]) for index in chunk)

    def describe(self, lengths: Sequence[int], chunk: Sequence[int]) -> str:
        longest = max(lengths[index] for index in chunk)
        return f"a chunk of {len(chunk)} rows of up to {longest} tokens, {self.cost(lengths, chunk)} in all"


def pad(sequences: TokenSequences, chosen: Sequence[int], padding: Mapping[str, int]) -> dict[str, Tensor]:
    """Make int64 tensors [chosen, longest] of the chosen sequences, right-padded with `padding[name]` (default 0), and
    their `attention_mask`."""
    lengths = sequences.lengths[list(chosen)]
    starts = sequences.starts[list(chosen)]
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    batch = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
    for name, values in sequences.features.items():
        padded = np.full(mask.shape, padding.get(name, 0), dtype=np.int64)
        padded[mask] = np.concatenate([values[s : s + n] for s, n in zip(starts, lengths, strict=True)])
        batch[name] = torch.from_numpy(padded)
    return batch


def plan_chunks(lengths: Sequence[int], token_budget: int, padded_ratio: int = 1) -> list[list[int]]:
    """Divide sequences into chunks, longest first, so that their tokens are at most `token_budget`, and rows times
    longest sequence at most `padded_ratio` times as many.

    Ranks wait for the one with the most to do. So the chunks are about equal, and as few as the budget allows, rounded
    up to 2, 4, 8 or a multiple of 8, which 2, 4 and 8 ranks can share evenly. The plan depends on the lengths alone
    (ties by index), not on the number of ranks. Sequences of similar length share a chunk, so that there is little
    padding; one that is longer than the budget is a chunk of its own.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    longest_first = np.maximum(np.asarray(lengths, dtype=np.int64)[order], 1)
    tokens = np.cumsum(longest_first)

    def sizes_within(budget: int) -> list[int]:
        return _chunk_sizes(longest_first, tokens, budget, padded_ratio)

    number = _shared_evenly(len(sizes_within(token_budget)))
    budgets = range(1, token_budget + 1)
    smallest = bisect_left(budgets, True, key=lambda budget: len(sizes_within(budget)) <= number)
    sizes = _halved_until(sizes_within(budgets[smallest]), number)
    return [chunk.tolist() for chunk in np.split(order, np.cumsum(sizes, dtype=np.int64))[:-1]]


def _shared_evenly(number: int) -> int:
    """The next number of chunks that 2, 4 and 8 ranks can share evenly, as far as there are so many."""
    return next((few for few in (0, 1, 2, 4) if number <= few), -(-number // 8) * 8)


def _chunk_sizes(longest_first: np.ndarray, tokens: np.ndarray, budget: int, padded_ratio: int) -> list[int]:
    """How many rows each chunk takes if each takes as many as fit in the budget. `tokens`: of the rows up to each."""
    sizes: list[int] = []
    start = before = 0  # the first row of the next chunk, and the tokens of the rows before it
    while start < len(longest_first):
        fit = int(np.searchsorted(tokens, before + budget, side="right")) - start
        sizes.append(max(1, min(fit, padded_ratio * budget // int(longest_first[start]))))
        start += sizes[-1]
        before = int(tokens[start - 1])
    return sizes


def _halved_until(sizes: list[int], number: int) -> list[int]:
    """Halve the first chunks, which hold the longest rows, until there are that many, or only single rows. (Where few
    long rows fill a chunk, no budget gives that number: the next smaller one gives too many.)"""
    while len(sizes) < number and max(sizes) > 1:
        place = next(place for place, size in enumerate(sizes) if size > 1)
        sizes[place : place + 1] = [sizes[place] - sizes[place] // 2, sizes[place] // 2]
    return sizes


def chunks_of_rank(chunks: Sequence[list[int]], rank: int, world_size: int) -> list[list[int]]:
    """The chunks of one rank, `chunks[rank::world_size]`. Empty chunks are added so that all ranks have the same
    number."""
    own = list(chunks[rank::world_size])
    rounds = -(-len(chunks) // world_size)
    return own + [[]] * (rounds - len(own))
