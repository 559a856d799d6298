"""Candidate lists whose sequences have a common prefix, which is computed once per list, in training and ranking.

The sequences of a list are packed into one: their common prefix, then the rest of each. Every token attends to the
prefix and to its own sequence, with the positions of its own sequence. So scores and gradients equal those of separate
sequences (with dropout, those of a list share the masks of their prefix).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import Repeats, TokenSequences, to_device
from data.collate import Collator, plan_chunks
from inference.runner import Runner, row_collator
from inference.score import score_sequences
from losses.math.masking import on_host

PACK_TOKENS = 2048  # most tokens of a pack: of longer ones the mask [tokens, tokens] would be large


def score_lists(
    runner: Runner, sequences: TokenSequences, sizes: Sequence[int], padding: Mapping[str, int], token_budget: int
) -> Tensor:
    """Compute the "score" [len(sequences)] of sequences that come list after list, list i having `sizes[i]`. Call it on
    all ranks; all get the same."""
    collator = list_collator(runner.model, padding, token_budget).of_lists(sequences, sizes)
    return score_sequences(runner, sequences, collator)


def list_collator(model: nn.Module, padding: Mapping[str, int], token_budget: int) -> Collator:
    """The collator of candidate lists, which it gets by `Collator.of_lists`: lists share their prefix if `model` can
    read packs; else it is that of rows."""
    if not getattr(model, "reads_packs", False):
        return row_collator(model, padding, token_budget)
    return SharedPrefixCollator(padding, token_budget)


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
    """A collator that divides packs into chunks, each padded to its longest pack. The packs are those of `of_lists`."""

    packs: tuple[Pack, ...] = ()

    def of_lists(
        self, sequences: TokenSequences, sizes: Sequence[int], repeats: Repeats | None = None
    ) -> SharedPrefixCollator:
        assert sum(sizes) == len(sequences), "the lists hold all sequences"
        # That of the whole list, also if some of its sequences run elsewhere: all ranks know it.
        prefixes, lengths = sequences.common_prefixes(sizes), sequences.lengths
        if repeats is not None:
            lengths, sizes = lengths[repeats.first], repeats.sizes(sizes)
        packs = plan_packs(lengths.tolist(), sizes, prefixes, min(PACK_TOKENS, self.token_budget))
        return replace(self, packs=tuple(packs))

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        chunks = plan_chunks([pack.length(lengths) for pack in self.packs], self.token_budget)
        return [[index for pack in chunk for index in self.packs[pack].sequences] for chunk in chunks]

    def shape(self, lengths: Sequence[int], chunk: Sequence[int]) -> tuple[int, int]:
        packs = self._packs_of(chunk)
        return len(packs), max((pack.length(lengths) for pack in packs), default=0)

    def num_tokens(self, lengths: Sequence[int], chunk: Sequence[int]) -> int:
        return sum(pack.length(lengths) for pack in self._packs_of(chunk))

    def collate(self, sequences: TokenSequences, chunk: Sequence[int]) -> dict[str, Tensor]:
        """Make the tensors of the chunk's packs (see `pack_features`)."""
        return pack_features(sequences, self._packs_of(chunk), self.padding["input_ids"])

    def per_sequence(self, values: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        rows, places = (on_host(features["ends"]) >= 0).nonzero(as_tuple=True)
        return values[to_device(rows, values.device), to_device(places, values.device)]

    @cached_property
    def _pack_of(self) -> dict[int, int]:
        """The position of each sequence's pack in `packs`."""
        return {index: position for position, pack in enumerate(self.packs) for index in pack.sequences}

    def _packs_of(self, chunk: Sequence[int]) -> list[Pack]:
        """The packs of a chunk's sequences, in its order, without the sequences that are not in it."""
        by_pack: dict[int, list[int]] = {}
        for index in chunk:
            by_pack.setdefault(self._pack_of[index], []).append(index)
        return [Pack(self.packs[position].prefix, own) for position, own in by_pack.items()]


def plan_packs(lengths: Sequence[int], sizes: Sequence[int], prefixes: Sequence[int], limit: int) -> Iterator[Pack]:
    """Divide lists, list i of `sizes[i]` sequences whose first `prefixes[i]` tokens are the same, into packs of at most
    `limit` tokens (or of one sequence, if that one is longer)."""
    first = 0
    for size, prefix in zip(sizes, prefixes, strict=True):
        own = list(range(first, first + size))
        first += size
        if not own:
            continue
        pack, length = [own[0]], lengths[own[0]]
        for index in own[1:]:
            more = lengths[index] - prefix
            if length + more > limit:
                yield Pack(prefix, pack)
                pack, length = [], prefix
            pack.append(index)
            length += more
        yield Pack(prefix, pack)


def pack_features(sequences: TokenSequences, packs: Sequence[Pack], padding: int) -> dict[str, Tensor]:
    """Make int64 tensors [packs, longest pack], right-padded: input_ids, attention_mask, position_ids, segment_ids (0
    for the prefix, 1, 2, ... for the rest of each sequence). And `ends` [packs, most sequences]: the position of the
    last token of each sequence, -1 beyond the pack's sequences. And what attention needs (`attention_features`)."""
    starts, tokens = sequences.starts, sequences.features["input_ids"]
    ids, positions, segments, ends, lengths = [], [], [], [], []
    for pack in packs:
        spans = [tokens[starts[index] : starts[index + 1]] for index in pack.sequences]
        own = [len(span) - pack.prefix for span in spans]
        ids.append(np.concatenate([spans[0][: pack.prefix], *(span[pack.prefix :] for span in spans)]))
        positions.append(np.concatenate([np.arange(pack.prefix), *(pack.prefix + np.arange(length) for length in own)]))
        segments.append(np.repeat(np.arange(len(own) + 1), [pack.prefix, *own]))
        ends.append(pack.prefix + np.cumsum(own) - 1)
        lengths.append(own)
    return {
        "input_ids": _pad(ids, padding),
        "attention_mask": _pad([np.ones_like(row) for row in ids], 0),
        "position_ids": _pad(positions, 0),
        "segment_ids": _pad(segments, 0),
        "ends": _pad(ends, -1),
        **attention_features([pack.prefix for pack in packs], lengths),
    }


def attention_features(prefixes: Sequence[int], own: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Make the int64 tensors of a `models.attention.PackLayout`: own_tokens, seen_tokens and places, from the length of
    each pack's prefix and the own lengths of its sequences."""
    lengths = [length for pack in own for length in pack]
    width = max(prefix + sum(pack) for prefix, pack in zip(prefixes, own, strict=True))
    longest, most = max(prefixes), max(lengths)
    own_tokens, shared = np.full((len(lengths), most), -1), np.full((len(lengths), longest), -1)
    places = np.zeros((len(prefixes), width), dtype=np.int64)
    number = 0
    for row, (prefix, pack) in enumerate(zip(prefixes, own, strict=True)):
        places[row, :prefix] = row * longest + np.arange(prefix)
        first = prefix
        for length in pack:
            own_tokens[number, :length] = row * width + first + np.arange(length)
            shared[number, :prefix] = row * width + np.arange(prefix)
            places[row, first : first + length] = len(prefixes) * longest + number * most + np.arange(length)
            first, number = first + length, number + 1
    features = {"own_tokens": own_tokens, "seen_tokens": np.concatenate([shared, own_tokens], axis=1), "places": places}
    return {name: torch.from_numpy(values.astype(np.int64)) for name, values in features.items()}


def _pad(rows: Sequence[np.ndarray], value: int) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)
