"""What a rank computes, updates and receives in a training step, counted on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.collate import chunks_of_rank
from engines.expected_traffic import Traffic, gathered, num_buckets, summed_in_shares
from engines.memory.state_bytes import FLOAT_BYTES
from engines.protocol import EngineConfig
from losses.contracts import has_in_batch_negatives
from losses.math.tiles import BYTES_PER_BLOCK
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
    workload: Workload,
    engine: EngineConfig,
    ranks: int,
    flops: FlopsOfChunks,
    *,
    kept_chunks: int,
    device: str,
    ranks_per_node: int,
) -> StepWork:
    """The work of a step, averaged over the batches of the workload. `device`: "cpu" or "cuda"."""
    own = [_own_chunks(workload.chunk_shapes(lengths), ranks) for lengths in workload.batches]
    repeated = [shapes[: max(len(shapes) - kept_chunks, 0)] for shapes in own]
    steps = len(own)
    chunks = sum(map(len, own)) / steps
    forwards = chunks + sum(map(len, repeated)) / steps
    compared = _compared_ranks(workload, ranks, ranks_per_node)
    traffic = [
        *engine.traffic(workload.parameters, ranks=ranks, forwards=forwards, backwards=chunks, device=device),
        *_traffic_of_batch(workload, ranks, compared, device),
    ]
    return StepWork(
        ranks,
        workload.mean_rows,
        chunks,
        sum(flops(shape).forward for shapes in (*own, *repeated) for shape in shapes) / steps,
        sum(flops(shape).backward for shapes in own for shape in shapes) / steps,
        _objective_flops(workload, ranks, compared),
        UPDATE_BYTES * workload.parameters.trainable / (ranks if engine.partitions_state else 1),
        tuple(traffic) if ranks > 1 else (),
    )


def _own_chunks(shapes: Sequence[Shape], ranks: int) -> list[Shape]:
    """The shapes of the chunks of rank 0."""
    return [shapes[chunk[0]] for chunk in chunks_of_rank([[index] for index in range(len(shapes))], 0, ranks)]


def compares_texts(workload: Workload) -> bool:
    """Whether a loss compares the queries with the documents of other lists."""
    return workload.dimension is not None and any(map(has_in_batch_negatives, losses_of(workload.settings).used))


def _compared_ranks(workload: Workload, ranks: int, ranks_per_node: int) -> int:
    """The ranks whose documents a query is compared with."""
    negatives = workload.settings.trainer.negatives
    return {"global": ranks, "node": min(ranks, ranks_per_node), "rank": 1}[negatives]


def _objective_flops(workload: Workload, ranks: int, compared: int) -> float:
    """The operations of the similarities of a rank: of its queries with the documents of the ranks that it compares."""
    if not compares_texts(workload):
        return 0.0
    lists = workload.settings.trainer.batch_size
    pairs = lists / ranks * max(workload.mean_rows - lists, 0.0) * compared / ranks
    return MATRIX_PRODUCTS * PRODUCT * pairs * (workload.dimension or 1)


def _traffic_of_batch(workload: Workload, ranks: int, compared: int, device: str) -> list[Traffic]:
    """The traffic that depends on the batch: what every rank knows of all lists, the tokens that a rank runs, the
    representations of its own lists, and those of the texts that it compares with them; the gradients of both."""
    away = (ranks - 1) / ranks  # the share of what a rank needs that another one has
    floats = FLOAT_BYTES * (workload.dimension or 1)
    features = len(workload.features) - 1  # beside the mask, which a rank makes itself
    own_rows = floats * workload.mean_rows / ranks * away
    found = [
        _of_next_batch(gathered("lists", ROW_BYTES * workload.mean_rows, ranks)),
        _of_next_batch(Traffic("tokens", TOKEN_BYTES * features * workload.mean_tokens / ranks * away, 1, ranks - 1)),
        Traffic("representations", own_rows),
        Traffic("representation_gradients", own_rows),
    ]
    if not compares_texts(workload) or compared == 1:
        return found
    documents = max(workload.mean_rows - workload.settings.trainer.batch_size, 0.0)
    size = floats * documents * compared / ranks
    blocks = num_buckets(size, BYTES_PER_BLOCK)
    passes = 2 if blocks > 1 else 1  # the backward gathers them again, unless they are one block
    return [
        *found,
        gathered("texts", size, compared, blocks).repeated(passes).hidden("objective"),
        summed_in_shares("text_gradients", size, compared, device, blocks).hidden("objective"),
    ]


def _of_next_batch(traffic: Traffic) -> Traffic:
    """The traffic between hosts, while the device computes the step before."""
    return replace(traffic, behind="step", on_host=True)
