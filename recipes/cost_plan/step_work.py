"""What a rank computes, updates and receives in a training step, counted on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.collate import chunks_of_rank
from engines.expected_traffic import Traffic, all_gathered
from engines.memory.state_bytes import FLOAT_BYTES
from engines.protocol import EngineConfig
from losses.contracts import has_in_batch_negatives
from recipes.chosen_losses import losses_of
from recipes.cost_plan.operations import PRODUCT, FlopsOfChunks
from recipes.cost_plan.shapes import Shape
from recipes.cost_plan.workload import Workload

TOKEN_BYTES = 4  # of a feature of a token
ROW_BYTES = 80  # what every rank knows of each row: its length, label, score of a teacher, hashes, id
MATRIX_PRODUCTS = 4  # of similarities: in the forward, again in the backward, and those of two gradients
UPDATE_BYTES = 28  # that AdamW moves per weight: weight, gradient and moments read; weight and moments written


@dataclass(frozen=True)
class StepWork:
    """The work of rank 0 in a step; no rank has more. Averages over some steps of a run."""

    ranks: int
    rows: float  # of all ranks
    chunks: float  # forwards of this rank that have a backward
    forward_flops: float  # those of chunks that run again included
    backward_flops: float
    objective_flops: float  # of this rank's share of the similarities
    update_bytes: float  # that the optimizer reads and writes
    traffic: tuple[Traffic, ...]

    @property
    def flops(self) -> float:
        """All operations of matrix products."""
        return self.forward_flops + self.backward_flops + self.objective_flops

    @property
    def received_bytes(self) -> float:
        """The bytes that this rank receives from others."""
        return sum(each.num_bytes for each in self.traffic)


def step_work(
    workload: Workload, engine: EngineConfig, ranks: int, flops: FlopsOfChunks, *, kept_chunks: int, device: str
) -> StepWork:
    """The work of a step, averaged over the batches of the workload."""
    own = [_own_chunks(workload.chunk_shapes(lengths), ranks) for lengths in workload.batches]
    steps = len(own)
    forward = sum(flops(shape).forward for shapes in own for shape in shapes) / steps
    backward = sum(flops(shape).backward for shapes in own for shape in shapes) / steps
    repeated = [shapes[: max(len(shapes) - kept_chunks, 0)] for shapes in own]
    again = sum(flops(shape).forward for shapes in repeated for shape in shapes) / steps
    chunks = sum(map(len, own)) / steps
    forwards = chunks + sum(map(len, repeated)) / steps
    options = workload.settings.trainer
    share = ranks if engine.partitions_state else 1
    moved = UPDATE_BYTES * workload.parameters.trainable / share
    traffic = [
        *engine.traffic(workload.parameters, ranks=ranks, forwards=forwards, backwards=chunks, device=device),
        *_traffic_of_batch(workload, ranks),
    ]
    return StepWork(
        ranks,
        sum(map(len, workload.batches)) / steps,
        chunks,
        forward + again,
        backward,
        _objective_flops(workload, options.batch_size) / ranks,
        moved,
        tuple(each for each in traffic if ranks > 1),
    )


def _own_chunks(shapes: Sequence[Shape], ranks: int) -> list[Shape]:
    """The shapes of the chunks of rank 0."""
    return [shapes[chunk[0]] for chunk in chunks_of_rank([[index] for index in range(len(shapes))], 0, ranks)]


def _objective_flops(workload: Workload, lists: int) -> float:
    """The operations of the similarities of a step: of all queries with all documents, if the loss compares them."""
    if workload.dimension is None or not any(map(has_in_batch_negatives, losses_of(workload.settings).used)):
        return 0.0
    rows = sum(map(len, workload.batches)) / len(workload.batches)
    return MATRIX_PRODUCTS * PRODUCT * lists * max(rows - lists, 0.0) * workload.dimension


def _traffic_of_batch(workload: Workload, ranks: int) -> list[Traffic]:
    """The traffic that depends on the batch: what every rank knows of its rows, the tokens of its own rows, the
    representations of all rows, and the gradients of its own."""
    rows = sum(map(len, workload.batches)) / len(workload.batches)
    tokens = sum(map(sum, workload.batches)) / len(workload.batches)
    floats = FLOAT_BYTES * rows * (workload.dimension or 1)
    features = len(workload.features) - 1  # beside the mask, which a rank makes itself
    own_tokens = TOKEN_BYTES * features * tokens / ranks
    return [
        all_gathered("lists", ROW_BYTES * rows, ranks),
        Traffic("tokens", own_tokens * (ranks - 1) / ranks, 1, 1),
        all_gathered("representations", floats, ranks),
        *([all_gathered("gradients of representations", floats, ranks)] if workload.dimension else []),
    ]
