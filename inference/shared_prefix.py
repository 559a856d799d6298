"""Score candidate lists whose sequences have a common prefix, which is computed once per list.

The sequences of a list are packed into one: their common prefix, then the rest of each. Every token attends to the
prefix and to its own sequence, with the positions of its own sequence, so the scores equal those of separate sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import TokenSequences
from data.collate import Collator, plan_chunks
from inference.runner import Runner, collator_for
from inference.score import score_sequences

PACK_TOKENS = 2048  # most tokens of a pack: longer ones share more, but compute more attention that is masked


def score_lists(
    runner: Runner, sequences: TokenSequences, sizes: Sequence[int], padding: Mapping[str, int], token_budget: int
) -> Tensor:
    """Compute the "score" [len(sequences)] of sequences that come list after list, list i having `sizes[i]`. Call it on
    all ranks; all get the same."""
    return score_sequences(runner, sequences, list_collator(runner.model, sequences, sizes, padding, token_budget))


def list_collator(
    model: nn.Module,
    sequences: TokenSequences,
    sizes: Sequence[int],
    padding: Mapping[str, int],
    token_budget: int,
) -> Collator:
    """Make a collator that packs the lists if the model can read packs (`model.reads_packs`), else that of
    `collator_for`."""
    assert sum(sizes) == len(sequences), "the lists hold all sequences"
    if not getattr(model, "reads_packs", False):
        return collator_for(model, padding, token_budget)
    packs = tuple(plan_packs(sequences, sizes, min(PACK_TOKENS, token_budget)))
    return SharedPrefixCollator(padding, token_budget, packs)


@dataclass(frozen=True)
class Pack:
    """Sequences of one list that share their first `prefix` tokens."""

    prefix: int
    sequences: list[int]

    def length(self, lengths: Sequence[int]) -> int:
        """The number of tokens of the pack, given the lengths of all sequences."""
        return self.prefix + sum(int(lengths[index]) - self.prefix for index in self.sequences)


@dataclass(frozen=True)
class SharedPrefixCollator(Collator):
    """A collator that divides packs into chunks, each padded to its longest pack. A pack is never divided."""

    packs: tuple[Pack, ...]

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        chunks = plan_chunks([pack.length(lengths) for pack in self.packs], self.token_budget)
        return [[index for pack in chunk for index in self.packs[pack].sequences] for chunk in chunks]

    def shape(self, lengths: Sequence[int], chunk: Sequence[int]) -> tuple[int, int]:
        packs = self._packs_of(chunk)
        return len(packs), max((pack.length(lengths) for pack in packs), default=0)

    def collate(self, sequences: TokenSequences, chunk: Sequence[int]) -> dict[str, Tensor]:
        """Make the tensors of the chunk's packs (see `pack_features`)."""
        return pack_features(sequences, self._packs_of(chunk), self.padding["input_ids"])

    def per_sequence(self, values: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        return values[features["ends"] >= 0]

    @cached_property
    def _pack_of(self) -> dict[int, int]:
        """The position of each sequence's pack in `packs`."""
        return {index: position for position, pack in enumerate(self.packs) for index in pack.sequences}

    def _packs_of(self, chunk: Sequence[int]) -> list[Pack]:
        """The packs of a chunk's sequences, in its order."""
        return [self.packs[position] for position in dict.fromkeys(self._pack_of[index] for index in chunk)]


def plan_packs(sequences: TokenSequences, sizes: Sequence[int], limit: int) -> Iterator[Pack]:
    """Divide the lists into packs of at most `limit` tokens (or of one sequence, if that one is longer)."""
    starts = np.concatenate([[0], np.cumsum(sequences.lengths)])
    tokens = sequences.features["input_ids"]
    first = 0
    for size in sizes:
        own = list(range(first, first + size))
        first += size
        if not own:
            continue
        prefix = _common_prefix([tokens[starts[index] : starts[index + 1]] for index in own])
        pack, length = [own[0]], int(sequences.lengths[own[0]])
        for index in own[1:]:
            more = int(sequences.lengths[index]) - prefix
            if length + more > limit:
                yield Pack(prefix, pack)
                pack, length = [], prefix
            pack.append(index)
            length += more
        yield Pack(prefix, pack)


def _common_prefix(sequences: Sequence[np.ndarray]) -> int:
    """The length of the common prefix of all sequences, at most one token less than the shortest."""
    length = min(map(len, sequences)) - 1
    for sequence in sequences[1:]:
        differing = np.flatnonzero(sequence[:length] != sequences[0][:length])
        length = int(differing[0]) if len(differing) else length
    return length


def pack_features(sequences: TokenSequences, packs: Sequence[Pack], padding: int) -> dict[str, Tensor]:
    """Make int64 tensors [packs, longest pack], right-padded: input_ids, attention_mask, position_ids, segment_ids (0
    for the prefix, 1, 2, ... for the rest of each sequence). And `ends` [packs, most sequences]: the position of the
    last token of each sequence, -1 beyond the pack's sequences."""
    starts = np.concatenate([[0], np.cumsum(sequences.lengths)])
    tokens = sequences.features["input_ids"]
    ids, positions, segments, ends = [], [], [], []
    for pack in packs:
        spans = [tokens[starts[index] : starts[index + 1]] for index in pack.sequences]
        own = [len(span) - pack.prefix for span in spans]
        ids.append(np.concatenate([spans[0][: pack.prefix], *(span[pack.prefix :] for span in spans)]))
        positions.append(np.concatenate([np.arange(pack.prefix), *(pack.prefix + np.arange(length) for length in own)]))
        segments.append(np.repeat(np.arange(len(own) + 1), [pack.prefix, *own]))
        ends.append(pack.prefix + np.cumsum(own) - 1)
    return {
        "input_ids": _pad(ids, padding),
        "attention_mask": _pad([np.ones_like(row) for row in ids], 0),
        "position_ids": _pad(positions, 0),
        "segment_ids": _pad(segments, 0),
        "ends": _pad(ends, -1),
    }


def _pad(rows: Sequence[np.ndarray], value: int) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)
