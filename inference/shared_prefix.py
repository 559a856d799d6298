"""Score candidate lists whose rows begin alike, the common beginning once per list.

The rows of a list are packed into one sequence: their common prefix, then what follows it in each row. Every token sees
the prefix and its own row, at the positions that it has there, so the scores are those of the rows one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.batch import TokenSequences
from data.collate import chunks_of_rank, plan_chunks
from engines.distributed.collectives import gather_rows
from engines.distributed.process_group import is_main, rank, world_size
from inference.score import Forward, evaluating, module_of, score_rows

PACK_TOKENS = 2048  # of a sequence: longer ones share more and attend to more that is masked


@dataclass(frozen=True)
class Pack:
    """Rows of one list that share their first `prefix` tokens."""

    prefix: int
    rows: list[int]


def score_lists(
    forward: Forward,
    rows: TokenSequences,
    sizes: Sequence[int],
    padding: Mapping[str, int],
    token_budget: int,
    device: torch.device,
) -> Tensor:
    """ "score" [len(rows)] of rows that stand list after list, `sizes` each: packed where the model reads packs
    (`model.reads_packs`), else `score_rows`. The same on all ranks, which must call it together."""
    assert sum(sizes) == len(rows), "the lists hold all rows"
    if not getattr(module_of(forward), "reads_packs", False):
        return score_rows(forward, rows, padding, token_budget, device)
    packs = list(plan_packs(rows, sizes, min(PACK_TOKENS, token_budget)))
    lengths = [pack.prefix + sum(int(rows.lengths[row]) - pack.prefix for row in pack.rows) for pack in packs]
    own = chunks_of_rank(plan_chunks(lengths, token_budget), rank(), world_size())
    outputs = []
    with evaluating(module_of(forward)), torch.no_grad():
        hidden = None if is_main() else True  # None: shown on terminals alone
        for chunk in tqdm(own, desc="scoring", unit="batch", delay=2, leave=False, disable=hidden):
            features = pack_features(rows, [packs[index] for index in chunk or [0]], padding["input_ids"])
            features = {name: values.to(device) for name, values in features.items()}
            output = forward(**features) if isinstance(forward, nn.Module) else forward(features)
            outputs.append(output["score"][features["ends"] >= 0].float() if chunk else output["score"].new_zeros(0))
    indices = [row for chunk in own for index in chunk for row in packs[index].rows]
    return gather_rows({"score": torch.cat(outputs)}, indices, len(rows))["score"]


def plan_packs(rows: TokenSequences, sizes: Sequence[int], limit: int) -> Iterator[Pack]:
    """The lists as packs of at most `limit` tokens (of one row, where it alone is longer)."""
    starts = np.concatenate([[0], np.cumsum(rows.lengths)])
    tokens = rows.features["input_ids"]
    first = 0
    for size in sizes:
        own = list(range(first, first + size))
        first += size
        if not own:
            continue
        prefix = _common_prefix([tokens[starts[row] : starts[row + 1]] for row in own])
        pack, length = [own[0]], int(rows.lengths[own[0]])
        for row in own[1:]:
            more = int(rows.lengths[row]) - prefix
            if length + more > limit:
                yield Pack(prefix, pack)
                pack, length = [], prefix
            pack.append(row)
            length += more
        yield Pack(prefix, pack)


def _common_prefix(rows: Sequence[np.ndarray]) -> int:
    """Tokens at the beginning that all rows share, leaving at least one of each."""
    length = min(map(len, rows)) - 1
    for row in rows[1:]:
        differing = np.flatnonzero(row[:length] != rows[0][:length])
        length = int(differing[0]) if len(differing) else length
    return length


def pack_features(rows: TokenSequences, packs: Sequence[Pack], padding: int) -> dict[str, Tensor]:
    """int64 tensors [packs, longest pack], right-padded: input_ids, attention_mask, position_ids, segment_ids (0: the
    prefix, 1, 2, ...: each row's own tokens); and ends [packs, most rows]: where each row ends, -1 where none is."""
    starts = np.concatenate([[0], np.cumsum(rows.lengths)])
    tokens = rows.features["input_ids"]
    ids, positions, segments, ends = [], [], [], []
    for pack in packs:
        spans = [tokens[starts[row] : starts[row + 1]] for row in pack.rows]
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
