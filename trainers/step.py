"""The forward and backward of one global step: chunk by chunk, for any objective, on any number of ranks.

This is GradCache (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
arXiv:2101.06983): forward without graph, the loss on the cached representations, then one forward and backward per
chunk with the cached gradients. Here it works for any representation, can keep the graphs of some chunks, and is exact
with dropout: a chunk's random seed is set before its forward and again before its recomputation. Equal sequences run
once: all of them get the representation of the first, and their gradients are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, dropwhile, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import ListBatch, Repeats, TokenSequences, to_device
from data.collate import Collator, chunks_of_rank
from data.hashing import stable_hash
from engines.distributed.exchange import RowExchange
from engines.distributed.process_group import rank, world_size
from engines.distributed.traffic import start_counting
from engines.memory.allocator import return_freed_memory
from engines.memory.kept_chunks import KeptChunks
from engines.protocol import Engine
from inference.own_tokens import fetch_own_tokens
from models.packing.lengths import lengths_are_known
from models.padding_masks import padding_is_known
from tensors.ragged import Rows, concatenate, elements, like
from trainers.out_of_memory import detect_out_of_memory

Representations = dict[str, Rows]


@dataclass(frozen=True)
class StepPlan:
    """The chunks of one global step. A chunk is a list of indices of `sequences`."""

    step: int
    sequences: TokenSequences  # those that run: equal ones once; the tokens of this rank's own chunks
    chunks: list[list[int]]  # the chunks of all ranks
    own: list[list[int]]  # the chunks of this rank; empty ones are added so that all ranks have the same number
    collator: Collator  # makes the tensors of the chunks
    padded_tokens: int  # tokens of all chunks, padding included
    computed_tokens: int  # without padding; those of equal sequences, or that sequences of a list share, count once
    own_rows: np.ndarray  # the rows of this rank's lists: of every W-th list of the step
    exchange: RowExchange  # of representations, from the rank that runs a sequence to those whose lists it is in
    repeats: Repeats | None = None  # which rows of the step each of them stands for; None: one for one
    # Tensors of chunks on the device, by first sequence and size: a chunk that runs again needs no second copy. With
    # each, whether some of its rows are padded.
    features: dict[tuple[int, int], tuple[dict[str, Tensor], bool]] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """The rows of the step, equal ones included."""
        return len(self.sequences) if self.repeats is None else len(self.repeats.place)

    @property
    def num_tokens(self) -> int:
        """The tokens of all rows of the step, equal ones included, without padding."""
        lengths = self.sequences.lengths
        return int((lengths if self.repeats is None else lengths[self.repeats.place]).sum())

    @property
    def distinct_tokens(self) -> int:
        """The tokens of the sequences that run, without padding."""
        return int(self.sequences.lengths.sum())

    def rows(self, chunk: Sequence[int]) -> list[int]:
        """The rows of the step that hold a chunk's sequences: of equal ones the first."""
        return list(chunk) if self.repeats is None else self.repeats.first[list(chunk)].tolist()


class GradientCache:
    """Runs the chunks of a step on `engine`. The graphs of this rank's last `kept_chunks` chunks are kept; "auto": of
    as many as fit. `merge_repeats`: equal rows of a batch run once."""

    def __init__(
        self, engine: Engine, collator: Collator, *, kept_chunks: int | str, seed: int, merge_repeats: bool = True
    ):
        self.engine = engine
        self.collator = collator
        self.kept = KeptChunks(kept_chunks, engine.model, engine.device)
        self.seed = seed
        self.merge_repeats = merge_repeats
        # The last sequences and their plan, then those made ahead: a step that is repeated makes neither again.
        self._planned: list[tuple[TokenSequences, StepPlan]] = []

    def plan(
        self,
        sequences: TokenSequences,
        step: int,
        repeats: Repeats | None = None,
        sizes: Sequence[int] | None = None,
    ) -> StepPlan:
        """Cut the step into chunks, in the same way on every number of ranks. `repeats`: which of the sequences are
        equal, and run once. `sizes`: the number of sequences of each list, in their order; None: every sequence is a
        list of its own. The plan is kept until one of other sequences is asked for."""
        self._planned = list(dropwhile(lambda planned: planned[0] is not sequences, self._planned))
        if not self._planned:
            self._planned.append((sequences, self._make_plan(sequences, step, repeats, sizes)))
        return replace(self._planned[0][1], step=step)

    def plan_batch(self, batch: ListBatch, step: int) -> StepPlan:
        """The plan of a batch of lists."""
        repeats = batch.repeats if self.merge_repeats else None
        return self.plan(batch.sequences, step, repeats, batch.sequences_per_list)

    def prefetch(self, batch: ListBatch, step: int) -> None:
        """Plan a later step and copy the tensors of its first chunk to the device, which computes meanwhile. The plan
        of this step stays, in case it is repeated."""
        current = self._planned[:1]
        plan = self.plan_batch(batch, step)
        self._planned = [*current, *self._planned]
        self._features(plan, plan.own[0])

    def _make_plan(
        self, sequences: TokenSequences, step: int, repeats: Repeats | None, sizes: Sequence[int] | None
    ) -> StepPlan:
        sizes = [1] * len(sequences) if sizes is None else sizes
        collator = self.collator.of_lists(sequences, sizes, repeats)
        if repeats is not None:
            sequences = sequences.select(repeats.first)
        lengths = sequences.lengths.tolist()
        chunks = collator.plan(lengths)
        owner = np.repeat(np.arange(len(sizes)) % world_size(), sizes)
        place = np.arange(len(sequences)) if repeats is None else repeats.place
        of_ranks = [chunks_of_rank(chunks, number, world_size()) for number in range(world_size())]
        return StepPlan(
            step,
            fetch_own_tokens(sequences, chunks, spare=_spare(sequences)),
            chunks,
            of_ranks[rank()],
            collator,
            padded_tokens=sum(collator.cost(lengths, chunk) for chunk in chunks),
            computed_tokens=sum(collator.num_tokens(lengths, chunk) for chunk in chunks),
            own_rows=np.flatnonzero(owner == rank()),
            exchange=RowExchange.plan([list(chain(*own)) for own in of_ranks], owner, place),
            repeats=repeats,
        )

    def forward(self, plan: StepPlan) -> list[Representations]:
        """Compute the representations of this rank's chunks. Those that are kept have a graph."""
        start_counting()  # here, since the plan may have been made ahead, in the step before
        kept = self.kept.of_step(len(plan.own))
        outputs = []
        for has_graph, indices in groupby(range(len(plan.own)), key=kept.__contains__):
            with torch.set_grad_enabled(has_graph), self.engine.unchanged_weights():
                for index in indices:
                    with self.kept.watch(index):
                        outputs.append(self._forward_chunk(plan, plan.own[index]))
                    if not has_graph:
                        return_freed_memory()
        return outputs

    def gather(self, plan: StepPlan, outputs: list[Representations]) -> Representations:
        """Give the representations of the rows of this rank's lists (`plan.own_rows`), whoever has run them, as leaves
        that require a gradient."""
        local = {
            name: concatenate([out[name].detach()[: len(chunk)] for out, chunk in zip(outputs, plan.own, strict=True)])
            for name in outputs[0]
        }
        return {name: value.requires_grad_() for name, value in plan.exchange.to_readers(local).items()}

    def backward(self, plan: StepPlan, outputs: list[Representations], gradients: Representations) -> None:
        """Add the gradients of the weights to the engine: first for the chunks whose graphs were kept, then for the
        others, which are run again. `gradients`: of what `gather` gave. `outputs` is emptied, so that each graph is
        freed after its chunk."""
        of_own, sizes = plan.exchange.to_makers(gradients), [len(chunk) for chunk in plan.own]
        of_chunks = {name: value.split(sizes) for name, value in of_own.items()}
        # Not `requires_grad`: a view of a weight (a learned bias) requires a gradient even without a graph.
        has_graph = [any(value.grad_fn is not None for value in output.values()) for output in outputs]
        kept_first = sorted(range(len(outputs)), key=lambda index: not has_graph[index])
        with self.engine.unchanged_weights():
            for position, index in enumerate(kept_first):
                chunk = plan.own[index]
                output = outputs[index] if has_graph[index] else self._forward_chunk(plan, chunk)
                surrogate = _surrogate(output, {name: values[index] for name, values in of_chunks.items()}, chunk)
                outputs[index] = output = {}
                with _detect_out_of_memory(plan, chunk), self.kept.watch(index):
                    self.engine.backward(surrogate, last=position == len(plan.own) - 1)
                del surrogate
                if not all(has_graph):
                    return_freed_memory()  # the step does not fit in memory as a whole
        lengths = plan.sequences.lengths.tolist()
        measured = plan.collator.cost(lengths, plan.own[0]) if plan.own[0] else self.collator.token_budget
        self.kept.end_step(max(1.0, self.collator.token_budget / measured))

    def _forward_chunk(self, plan: StepPlan, chunk: list[int]) -> Representations:
        """Run one chunk: a row per sequence, in its order. An empty one runs the shortest sequence, so that every rank
        makes the same calls (ZeRO-3)."""
        chunk = chunk or [_spare(plan.sequences)]
        torch.manual_seed(stable_hash("chunk", self.seed, plan.step, chunk[0]))
        features, is_padded = self._features(plan, chunk)
        lengths = plan.sequences.lengths[chunk].tolist()
        # A compiled model reads no masks.
        known = nullcontext() if self.engine.compiled else padding_is_known(is_padded)
        with _detect_out_of_memory(plan, chunk), known, lengths_are_known(lengths):
            output = self.engine.forward(features)
        return {name: plan.collator.per_sequence(value, features) for name, value in output.items()}

    def _features(self, plan: StepPlan, chunk: list[int]) -> tuple[dict[str, Tensor], bool]:
        """The tensors of a chunk on the device, a few bytes per token, so those of a step are kept until its end; and
        whether some of its rows are padded."""
        chunk = chunk or [_spare(plan.sequences)]
        key = (chunk[0], len(chunk))
        if key not in plan.features:
            features = plan.collator.collate(plan.sequences, chunk)
            is_padded = not bool(features["attention_mask"].all())  # on the host
            moved = {name: to_device(value, self.engine.device) for name, value in features.items()}
            plan.features[key] = moved, is_padded
        return plan.features[key]


def gradients_of(loss: Tensor, representations: Representations) -> Representations:
    """The gradient of the loss for each representation, by name."""
    # The gradient is 0 for a representation that the loss does not read (a fixed scale).
    leaves = [elements(value) for value in representations.values()]
    found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    named = zip(representations.items(), found, strict=True)
    return {name: like(value, gradient) for (name, value), gradient in named}


def _detect_out_of_memory(plan: StepPlan, chunk: list[int]) -> AbstractContextManager[None]:
    """Raise `ChunkOutOfMemory` if memory runs out inside."""
    chunk = chunk or [_spare(plan.sequences)]
    describe = partial(plan.collator.describe, plan.sequences.lengths.tolist(), chunk)
    return detect_out_of_memory(plan.rows(chunk), describe)


def _spare(sequences: TokenSequences) -> int:
    """The sequence that a rank runs in the place of an empty chunk: the shortest."""
    return int(sequences.lengths.argmin())


def _surrogate(output: dict[str, Any], gradients: dict[str, Any], chunk: list[int]) -> Tensor:
    """The sum of representation * gradient over a chunk. Its gradient is the chunk's part of the gradient of the
    loss."""
    if not chunk:
        return sum((value * 0).sum() for value in output.values())
    return sum((value * gradients[name]).sum() for name, value in output.items())
