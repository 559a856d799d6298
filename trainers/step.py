"""The forward and backward of one global step: chunk by chunk, for any objective, on any number of ranks.

This is GradCache (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
arXiv:2101.06983): forward without graph, the loss on the cached representations, then one forward and backward per
chunk with the cached gradients. Here it works for any representation, can keep the graphs of some chunks, and is exact
with dropout: a chunk's random seed is set before its forward and again before its recomputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import TokenSequences
from data.collate import Collator, chunks_of_rank
from data.hashing import stable_hash
from engines.distributed.collectives import all_agree, gather_rows
from engines.distributed.process_group import rank, world_size
from engines.memory.allocator import return_freed_memory
from engines.memory.kept_chunks import KeptChunks
from engines.protocol import Engine, NotFinite
from trainers.out_of_memory import detect_out_of_memory

Representations = dict[str, Tensor]


@dataclass(frozen=True)
class StepPlan:
    """The chunks of one global step. A chunk is a list of indices of sequences."""

    step: int
    sequences: TokenSequences
    chunks: list[list[int]]  # the chunks of all ranks
    own: list[list[int]]  # the chunks of this rank; empty ones are added so that all ranks have the same number
    collator: Collator  # makes the tensors of the chunks
    padded_tokens: int  # tokens of all chunks, padding included
    computed_tokens: int  # without padding; those that sequences of a list share count once

    @property
    def num_tokens(self) -> int:
        """The tokens of all sequences, without padding."""
        return int(self.sequences.lengths.sum())


class GradientCache:
    """Runs the chunks of a step on `engine`. The graphs of this rank's last `kept_chunks` chunks are kept; "auto": of
    as many as fit."""

    def __init__(self, engine: Engine, collator: Collator, *, kept_chunks: int | str, seed: int):
        self.engine = engine
        self.collator = collator
        self.kept = KeptChunks(kept_chunks, engine.model, engine.device)
        self.seed = seed

    def plan(self, sequences: TokenSequences, step: int, sizes: Sequence[int] | None = None) -> StepPlan:
        """Cut the step into chunks, in the same way on every number of ranks. `sizes`: the number of sequences of each
        list, in their order; None: every sequence is a list of its own."""
        lengths = sequences.lengths.tolist()
        collator = self.collator.of_lists(sequences, [1] * len(lengths) if sizes is None else sizes)
        chunks = collator.plan(lengths)
        return StepPlan(
            step,
            sequences,
            chunks,
            chunks_of_rank(chunks, rank(), world_size()),
            collator,
            padded_tokens=sum(collator.cost(lengths, chunk) for chunk in chunks),
            computed_tokens=sum(collator.num_tokens(lengths, chunk) for chunk in chunks),
        )

    def forward(self, plan: StepPlan) -> list[Representations]:
        """Compute the representations of this rank's chunks. Those that are kept have a graph."""
        kept = self.kept.of_step(len(plan.own))
        outputs = []
        for index, chunk in enumerate(plan.own):
            with torch.set_grad_enabled(index in kept), self.kept.watch(index):
                outputs.append(self._forward_chunk(plan, chunk))
            if index not in kept:
                return_freed_memory()
        return outputs

    def gather(self, plan: StepPlan, outputs: list[Representations]) -> Representations:
        """Gather the representations of the whole global step on every rank, as leaves that require a gradient.

        Raises `NotFinite`, on every rank, if one of them is not finite.
        """
        own = [index for chunk in plan.own for index in chunk]
        local = {
            name: torch.cat([out[name].detach()[: len(chunk)] for out, chunk in zip(outputs, plan.own, strict=True)])
            for name in outputs[0]
        }
        total = len(plan.sequences)
        leaves = {name: value.requires_grad_() for name, value in gather_rows(local, own, total).items()}
        if broken := _broken_rows(leaves):
            raise NotFinite(
                f"step {plan.step}: the model's output is not finite in {len(broken)} of {total} rows", broken
            )
        return leaves

    def backward(self, plan: StepPlan, outputs: list[Representations], gradients: Representations) -> None:
        """Add the gradients of the weights to the engine: first for the chunks whose graphs were kept, then for the
        others, which are run again. `outputs` is emptied, so that each graph is freed after its chunk."""
        has_graph = [any(value.requires_grad for value in output.values()) for output in outputs]
        kept_first = sorted(range(len(outputs)), key=lambda index: not has_graph[index])
        for position, index in enumerate(kept_first):
            chunk = plan.own[index]
            output = outputs[index] if has_graph[index] else self._forward_chunk(plan, chunk)
            surrogate = _surrogate(output, gradients, chunk)
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
        chunk = chunk or [int(plan.sequences.lengths.argmin())]
        torch.manual_seed(stable_hash("chunk", self.seed, plan.step, chunk[0]))
        features = plan.collator.collate(plan.sequences, chunk)
        features = {name: value.to(self.engine.device) for name, value in features.items()}
        with _detect_out_of_memory(plan, chunk):
            output = self.engine.forward(features)
        return {name: plan.collator.per_sequence(value, features) for name, value in output.items()}


def gradients_of(loss: Tensor, representations: Representations, step: int) -> Representations:
    """The gradient of the loss for each representation, by name. Raises `NotFinite`, on every rank, if the loss or a
    gradient is not finite on any rank."""
    # The gradient is 0 for a representation that the loss does not read (a fixed scale).
    values = torch.autograd.grad(loss, list(representations.values()), allow_unused=True, materialize_grads=True)
    gradients = dict(zip(representations, values, strict=True))
    finite = torch.stack([loss.isfinite(), *(gradient.isfinite().all() for gradient in gradients.values())]).all()
    if not all_agree(bool(finite)):
        reason = f"step {step}: the loss or its gradient is not finite (loss {loss.item()})"
        largest = max(float(value.detach().abs().max()) for value in representations.values())
        raise NotFinite(reason, _broken_rows(gradients), largest)
    return gradients


def _detect_out_of_memory(plan: StepPlan, chunk: list[int]) -> AbstractContextManager[None]:
    """Raise `ChunkOutOfMemory` if memory runs out inside."""
    chunk = chunk or [int(plan.sequences.lengths.argmin())]
    return detect_out_of_memory(chunk, lambda: plan.collator.shape(plan.sequences.lengths.tolist(), chunk))


def _surrogate(output: Representations, gradients: Representations, chunk: list[int]) -> Tensor:
    """The sum of representation * gradient over a chunk. Its gradient is the chunk's part of the gradient of the
    loss."""
    if not chunk:
        return sum((value * 0).sum() for value in output.values())  # type: ignore[return-value]
    return sum((value * gradients[name][chunk]).sum() for name, value in output.items())  # type: ignore[return-value]


def _broken_rows(values: Representations) -> list[int]:
    """The rows in which any of the values is not finite."""
    broken = [~value.detach().isfinite().flatten(1).all(dim=1) for value in values.values() if value.ndim > 1]
    broken += [~value.detach().isfinite() for value in values.values() if value.ndim == 1]
    return torch.stack(broken).any(dim=0).nonzero().flatten().tolist()
