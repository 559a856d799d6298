"""Run a model over many tokenised sequences without gradients, sharded over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import TokenSequences
from data.collate import Collator, chunks_of_rank
from data.progress import Progress, show_progress
from data.sampling.list_arrays import OWN, arrays_of_sequences, divide_sequences, sequences_of
from engines.distributed.collectives import RowsOfRanks, gather_arrays, gather_planned_rows
from engines.distributed.exchange import RowExchange
from engines.distributed.process_group import rank, world_size
from engines.memory.allocator import allocator_message, is_out_of_memory
from inference.own_tokens import fetch_own_tokens
from inference.runner import Runner, evaluation_mode
from models.packing.lengths import lengths_are_known
from tensors.ragged import concatenate

TOKENIZER_BATCH = 1024  # sequences per call


def tokenize_sharded(
    tokenize: Callable[[slice], Mapping[str, list[list[int]]]], sizes: Sequence[int]
) -> TokenSequences:
    """Tokenise lists of `sizes[i]` sequences: each rank calls `tokenize(part)` for its share of whole lists. All ranks
    get all sequences, with the tokens of their share alone (`TokenSequences.shared`)."""
    bounds = np.cumsum([0, *sizes])
    lists = np.searchsorted(bounds, [bounds[-1] * (rank() + side) // world_size() for side in (0, 1)])
    begin, end = bounds[lists].tolist()
    starts = range(begin, end, TOKENIZER_BATCH)
    own = []
    with Progress(share_of("tokenising"), end - begin, "texts") as progress:
        for start in starts:
            part = slice(start, min(start + TOKENIZER_BATCH, end))
            own.append(TokenSequences.from_encoding(tokenize(part)))
            progress.advance(part.stop - start)
    if world_size() == 1:
        return TokenSequences.concatenate(own)
    arrays = {}
    if own:
        share = divide_sequences(TokenSequences.concatenate(own), sizes[lists[0] : lists[1]], rank())
        arrays = arrays_of_sequences(OWN, [share])
    gathered = enumerate(gather_arrays(arrays, "lists"))
    found = [sequences_of(OWN, arrays, holder) if arrays else [] for holder, arrays in gathered]
    if own:
        found[rank()] = [share]
    return TokenSequences.concatenate([part for of_rank in found for part in of_rank])


def share_of(what: str) -> str:
    """The title of a step of which rank 0 shows its own share."""
    return what if world_size() == 1 else f"{what} (rank 0 of {world_size()})"


def score_sequences(runner: Runner, sequences: TokenSequences, collator: Collator, name: str = "score") -> Tensor:
    """Compute one representation, `name`, of every sequence by `represent_sequences`."""
    return represent_sequences(runner, sequences, collator, [name])[name]


def represent_sequences(
    runner: Runner,
    sequences: TokenSequences,
    collator: Collator,
    names: Sequence[str] | None = None,
    *,
    read: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Compute the representations of every sequence, float32 [len(sequences), ...], the same on all ranks. `names`:
    those to keep, None: all. `read`: for a number of rows, the rank that reads each and which sequence it is; then a
    rank gets those of the rows that it reads.

    Chunk i runs on rank i mod W, in evaluation mode (restored afterwards). A rank with one chunk fewer runs one
    sequence more and drops the result: ZeRO-3 gathers weights in every forward, so all ranks must make the same number.
    """
    assert len(sequences), "nothing to score"
    chunks = collator.plan(sequences.lengths.tolist())
    of_ranks = [chunks_of_rank(chunks, number, world_size()) for number in range(world_size())]
    own = of_ranks[rank()]
    sequences = fetch_own_tokens(sequences, chunks, spare=0)
    what = share_of("encoding" if names == ["embedding"] else "scoring")
    outputs = list(run_chunks(runner, sequences, collator, show_progress(own, what, len(own)), names))
    local = {name: concatenate([output[name] for output in outputs]) for name in outputs[0]}
    made = [[index for chunk in each for index in chunk] for each in of_ranks]
    return (
        gather_planned_rows(local, RowsOfRanks(made))
        if read is None
        else RowExchange.plan(made, *read).to_readers(local)
    )


def represent_distinct(
    runner: Runner,
    sequences: TokenSequences,
    collator: Collator,
    names: Sequence[str] | None = None,
    *,
    sizes: Sequence[int] | None = None,
    reader: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compute the same as `represent_sequences`, with equal sequences run once. `collator`: one for any sequences.
    `sizes`: the number of sequences of each list, in their order; None: every sequence is a list of its own. `reader`:
    the rank that reads each sequence, which alone gets it; None: all get all."""
    repeats = sequences.repeats()
    collator = collator.of_lists(sequences, [1] * len(sequences) if sizes is None else sizes, repeats)
    distinct = sequences if repeats is None else sequences.select(repeats.first)
    if reader is not None:
        place = np.arange(len(sequences)) if repeats is None else repeats.place
        return represent_sequences(runner, distinct, collator, names, read=(reader, place))
    found = represent_sequences(runner, distinct, collator, names)
    return found if repeats is None else {name: repeats.expand(values) for name, values in found.items()}


def run_chunks(
    runner: Runner,
    sequences: TokenSequences,
    collator: Collator,
    chunks: Iterable[list[int]],
    names: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the representations of each chunk of indices, float32 [len(chunk), ...], as the model gives them.

    It runs in evaluation mode. For an empty chunk the first sequence runs, and the result is dropped.
    """
    with evaluation_mode(runner.model):
        for chunk in chunks:
            chosen = chunk or [0]
            features = collator.collate(sequences, chosen)
            features = {name: values.to(runner.device) for name, values in features.items()}
            known = lengths_are_known(sequences.lengths[chosen].tolist())
            with torch.no_grad(), known, _explain_out_of_memory(features):
                output = runner.forward(features)
            representations = {name: collator.per_sequence(output[name], features) for name in names or output}
            yield {name: values[: len(chunk)].float() for name, values in representations.items()}


@contextmanager
def _explain_out_of_memory(features: Mapping[str, Tensor]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        shape = " x ".join(map(str, features["input_ids"].shape))
        raise MemoryError(
            f"out of memory while scoring {shape} tokens (rows x longest): lower eval.token_budget (in training "
            f"trainer.token_budget), then model.max_length; {allocator_message(error)}"
        ) from error
