"""The exchange of tokens: each rank gets those of the chunks that it runs, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from data.batch import TokenSequences
from data.collate import chunks_of_rank
from engines.distributed.collectives import exchange_rows
from engines.distributed.process_group import rank, world_size


def fetch_own_tokens(sequences: TokenSequences, chunks: Sequence[list[int]], *, spare: int) -> TokenSequences:
    """The same sequences with the tokens of this rank's chunks: chunk i runs on rank i mod W, and a rank with one chunk
    fewer runs the sequence `spare`. If the tokens of all are here, nothing is exchanged.

    Call it on all ranks with the same arguments. Every rank knows who has and who needs which sequence, so there is one
    exchange, of tokens alone, on the host: it does not wait for the device.
    """
    if sequences.shared is None:
        return sequences
    number, ranks = rank(), world_size()
    target = np.empty(len(sequences), dtype=np.int64)  # the rank that runs each sequence
    for index, chunk in enumerate(chunks):
        target[chunk] = index % ranks
    idle = [each for each in range(ranks) if not all(chunks_of_rank(chunks, each, ranks)) and each != target[spare]]
    target = np.concatenate([target, np.array(idle, dtype=np.int64)])
    row = np.concatenate([np.arange(len(sequences)), np.full(len(idle), spare)])
    holder = sequences.shared["holder"][row]

    leaving, coming = np.flatnonzero(holder == number), np.flatnonzero(target == number)
    leaving = leaving[np.lexsort((row[leaving], target[leaving]))]
    coming = coming[np.lexsort((row[coming], holder[coming]))]
    lengths = sequences.lengths[row]
    tokens = np.stack(list(sequences.select(row[leaving]).features.values()), axis=1)
    found = exchange_rows(
        torch.from_numpy(tokens),
        _totals(target[leaving], lengths[leaving], ranks),
        _totals(holder[coming], lengths[coming], ranks),
        name="tokens",
    ).numpy()
    columns = {name: np.ascontiguousarray(found[:, column]) for column, name in enumerate(sequences.features)}
    order = np.argsort(row[coming])
    features = TokenSequences(columns, lengths[coming]).select(order).features
    shared = sequences.shared.copy()
    shared["holder"] = target[: len(sequences)]
    shared["here"] = False
    shared["here"][row[coming]] = True
    return replace(sequences, features=features, shared=shared)


def _totals(ranks: np.ndarray, lengths: np.ndarray, number: int) -> list[int]:
    """The sum of the lengths that belong to each of `number` ranks."""
    return np.bincount(ranks, weights=lengths, minlength=number).astype(np.int64).tolist()
