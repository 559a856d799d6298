"""The one step of every objective: gradients of a loss over representations, chunk by chunk, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import TokenSequences
from data.collate import chunks_of_rank, pad, plan_chunks
from data.hashing import stable_hash
from engines.distributed.collectives import all_agree, gather_rows
from engines.distributed.process_group import rank, world_size
from engines.memory.allocator import return_freed_memory
from engines.protocol import Engine, NotFinite
from trainers.guards import chunk_named

Representations = dict[str, Tensor]
Objective = Callable[[Representations], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class CachedGradients:
    """What one forward and backward over a global step gave; equal on every rank."""

    loss: float
    statistics: dict[str, Tensor]
    representations: Representations
    num_chunks: int
    padded_tokens: int


class GradientCache:
    """Accumulates d loss / d weights of a loss over *all* rows of a global step into an engine.

    Source: GradCache (Gao et al., 2021, arXiv:2101.06983), here for any representation and exact with dropout, since a
    chunk's random key (seed, step, first global row) is set before its forward and again before its recomputation.
    """

    def __init__(self, engine: Engine, padding: dict[str, int], *, token_budget: int, kept_chunks: int, seed: int):
        self.engine = engine
        self.padding = padding
        self.token_budget = token_budget
        self.kept_chunks = kept_chunks
        self.seed = seed

    def __call__(self, rows: TokenSequences, objective: Objective, *, step: int) -> CachedGradients:
        """Forward, objective, backward. Raises `NotFinite` on every rank where a representation, the loss or its
        gradient is not finite, and `ChunkOutOfMemory` where a chunk does not fit."""
        chunks = plan_chunks(rows.lengths.tolist(), self.token_budget)
        own = chunks_of_rank(chunks, rank(), world_size())
        first_kept = len(own) - self.kept_chunks
        outputs = []
        for index, chunk in enumerate(own):
            with torch.set_grad_enabled(index >= first_kept):
                outputs.append(self._forward(rows, chunk, step))
            if 0 <= index < first_kept:
                return_freed_memory()

        leaves = self._gather(outputs, own, total=len(rows))
        if broken := _broken_rows(leaves):  # on every rank: all hold the same
            raise NotFinite(
                f"step {step}: the model's output is not finite in {len(broken)} of {len(rows)} rows", broken
            )
        loss, statistics = objective(leaves)
        gradients = self._gradients(loss, leaves, step)

        kept_first = [*range(max(first_kept, 0), len(own)), *range(max(first_kept, 0))]
        for position, index in enumerate(kept_first):
            kept = outputs[index] if index >= first_kept else self._forward(rows, own[index], step)
            surrogate = self._surrogate(kept, gradients, own[index])
            outputs[index] = {}  # the graph goes with its chunk
            with chunk_named(rows, own[index] or [0]):
                self.engine.backward(surrogate, last=position == len(own) - 1)
            if first_kept > 0:
                return_freed_memory()  # the step is larger than what may be held
        return CachedGradients(
            loss=loss.item(),
            statistics=statistics,
            representations={name: leaf.detach() for name, leaf in leaves.items()},
            num_chunks=len(chunks),
            padded_tokens=sum(len(chunk) * int(rows.lengths[chunk[0]]) for chunk in chunks),
        )

    def _forward(self, rows: TokenSequences, chunk: list[int], step: int) -> Representations:
        """One chunk; an empty one runs the shortest row, so that every rank makes the same calls (ZeRO-3)."""
        chunk = chunk or [int(rows.lengths.argmin())]
        torch.manual_seed(stable_hash("chunk", self.seed, step, chunk[0]))
        features = pad(rows, chunk, self.padding)
        with chunk_named(rows, chunk):
            return self.engine.forward({name: value.to(self.engine.device) for name, value in features.items()})

    def _gather(self, outputs: list[Representations], own: list[list[int]], *, total: int) -> Representations:
        """Leaves with every row of the global step, in global order."""
        own_rows = [row for chunk in own for row in chunk]
        local = {
            name: torch.cat([output[name].detach()[: len(chunk)] for output, chunk in zip(outputs, own, strict=True)])
            for name in outputs[0]
        }
        return {name: value.requires_grad_() for name, value in gather_rows(local, own_rows, total).items()}

    @staticmethod
    def _gradients(loss: Tensor, leaves: Representations, step: int) -> Representations:
        # A representation that this loss does not read (a fixed scale) has gradient 0.
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        gradients = dict(zip(leaves, found, strict=True))
        finite = torch.stack([loss.isfinite(), *(gradient.isfinite().all() for gradient in gradients.values())]).all()
        if not all_agree(bool(finite)):
            reason = f"step {step}: the loss or its gradient is not finite (loss {loss.item()})"
            raise NotFinite(reason, _broken_rows(gradients))
        return gradients

    @staticmethod
    def _surrogate(output: Representations, gradients: Representations, chunk: list[int]) -> Tensor:
        """sum(representation * d loss / d representation): its gradient is the chunk's share of the loss's."""
        if not chunk:
            return sum((value * 0).sum() for value in output.values())  # type: ignore[return-value]
        return sum((value * gradients[name][chunk]).sum() for name, value in output.items())  # type: ignore[return-value]


def _broken_rows(values: Representations) -> list[int]:
    """The rows in which any of the values is not finite."""
    broken = [~value.detach().isfinite().flatten(1).all(dim=1) for value in values.values() if value.ndim > 1]
    broken += [~value.detach().isfinite() for value in values.values() if value.ndim == 1]
    return torch.stack(broken).any(dim=0).nonzero().flatten().tolist()
