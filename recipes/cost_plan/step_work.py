"""What a rank computes, updates and receives in a training step, counted on paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from data.collate import chunks_of_rank
from engines.expected_traffic import Traffic, gathered, num_buckets, summed_in_shares
from engines.memory.state_bytes import FLOAT_BYTES
from engines.protocol import EngineConfig
from losses.contracts import all_losses, has_in_batch_negatives, input_names, whole_losses
from losses.math.tiles import BYTES_PER_BLOCK
from recipes.chosen_losses import losses_of
from recipes.cost_plan.model_rows import ModelRows
from recipes.cost_plan.operations import PRODUCT
from recipes.cost_plan.shapes import Shape
from recipes.cost_plan.workload import Workload

TOKEN_BYTES = 4  # of a feature of a token
ROW_BYTES = 80  # what every rank knows of each row: its length, label, score of a teacher, hashes, id
FROZEN_ROW_BYTES = 32  # of each row of a teacher or guide: its length, what was cut, a hash, the prefix of its list
MATRIX_PRODUCTS = 4  # of similarities: in the forward, again in the backward, and those of two gradients
GUIDE_PRODUCTS = 2  # the same without gradients
UPDATE_BYTES = 28  # that AdamW moves per weight: weight, gradient and moments read; weight and moments written


@dataclass(frozen=True)
class StepWork:
    """The work of a rank in a step; none has more than rank 0. Averages over some steps of a run."""

    ranks: int
    rows: float  # of all ranks
    chunks: float  # forwards of this rank that have a backward
    forward_flops: float  # those of chunks that run again, and of frozen models, included
    backward_flops: float
    objective_flops: float  # of the similarities that this rank computes
    update_bytes: float  # that the optimizer reads and writes
    traffic: tuple[Traffic, ...]

    @property
    def flops(self) -> float:
        """All operations of matrix products."""
        return self.forward_flops + self.backward_flops + self.objective_flops

    @property
    def received_bytes(self) -> float:
        """The bytes that this rank receives from others."""
        return sum(self.received.values())

    @property
    def received(self) -> dict[str, float]:
        """The same by the name of what comes."""
        found: dict[str, float] = {}
        for each in self.traffic:
            found[each.name] = found.get(each.name, 0.0) + each.num_bytes
        return found


def step_work(
    workload: Workload,
    engine: EngineConfig,
    ranks: int,
    *,
    kept_chunks: int,
    device: str,
    ranks_per_node: int,
    rank: int = 0,
) -> StepWork:
    """The work of a step, averaged over the batches of the workload. `device`: "cpu" or "cuda"."""
    own, flops = _own_chunks(workload, rank, ranks), workload.flops
    repeated = [shapes[: max(len(shapes) - kept_chunks, 0)] for shapes in own]
    steps = len(own)
    chunks = sum(map(len, own)) / steps
    frozen_flops, frozen_on_engine = _frozen_forwards(workload, rank, ranks)
    forwards = chunks + sum(map(len, repeated)) / steps + frozen_on_engine
    compared = _compared_ranks(workload, ranks, ranks_per_node)
    traffic = [
        *engine.traffic(workload.parameters, ranks=ranks, forwards=forwards, backwards=chunks, device=device),
        *_traffic_of_batch(workload, ranks, compared, device),
    ]
    return StepWork(
        ranks,
        workload.mean_rows,
        chunks,
        sum(flops(shape).forward for shapes in (*own, *repeated) for shape in shapes) / steps + frozen_flops,
        sum(flops(shape).backward for shapes in own for shape in shapes) / steps,
        _objective_flops(workload, ranks, compared),
        UPDATE_BYTES * workload.parameters.trainable / (ranks if engine.partitions_state else 1),
        tuple(traffic) if ranks > 1 else (),
    )


def _own_chunks(rows: ModelRows, rank: int, ranks: int) -> list[list[Shape]]:
    """The shapes of the chunks of a rank in each step. A rank that has one less than rank 0 runs one without rows."""
    steps = [rows.chunk_shapes(lengths) for lengths in rows.batches]
    return [
        [shapes[index] for chunk in chunks_of_rank([[i] for i in range(len(shapes))], rank, ranks) for index in chunk]
        for shapes in steps
    ]


def _frozen_forwards(workload: Workload, rank: int, ranks: int) -> tuple[float, float]:
    """The operations of the forwards of frozen models on a rank, and the number of those that the engine runs."""
    flops = on_engine = 0.0
    for role, rows in workload.frozen.items():
        shapes = list(chain(*_own_chunks(rows, rank, ranks)))
        times = _times_in_step(workload, role)
        flops += times * sum(rows.flops(shape).forward for shape in shapes) / len(rows.batches)
        on_engine += times * len(shapes) * rows.on_engine / len(rows.batches)
    return flops, on_engine


def _times_in_step(workload: Workload, role: str) -> float:
    """How often a frozen model runs the rows of a batch in a step: the reference once for all updates on a batch."""
    return 1 / workload.settings.trainer.updates_per_batch if role == "reference" else 1.0


def compares_texts(workload: Workload) -> bool:
    """Whether a rank compares its queries with the documents of other lists, by a loss of which it computes a part."""
    used = losses_of(workload.settings).used
    whole = {id(each) for loss in used for outer in whole_losses(loss) for each in all_losses(outer)}
    own = [each for loss in used for each in all_losses(loss) if id(each) not in whole]
    return workload.dimension is not None and any(getattr(each, "in_batch_negatives", False) for each in own)


def _compares_all(workload: Workload) -> bool:
    """Whether every rank compares all queries with all documents, by a loss that it computes as a whole."""
    whole = [each for loss in losses_of(workload.settings).used for each in whole_losses(loss)]
    return workload.dimension is not None and any(map(has_in_batch_negatives, whole))


def _compared_ranks(workload: Workload, ranks: int, ranks_per_node: int) -> int:
    """The ranks whose documents a query is compared with."""
    negatives = workload.settings.trainer.negatives
    return {"global": ranks, "node": min(ranks, ranks_per_node), "rank": 1}[negatives]


def _objective_flops(workload: Workload, ranks: int, compared: int) -> float:
    """The operations of the similarities of a rank: of its queries with the documents of the ranks that it compares,
    and of all queries with all documents by a loss that is not divided over the ranks."""
    lists = workload.settings.trainer.batch_size
    pairs = lists * max(workload.mean_rows - lists, 0.0)
    share = compares_texts(workload) * compared / ranks**2 + _compares_all(workload)
    products = MATRIX_PRODUCTS * _products(workload)
    if "guide" in workload.frozen:
        products += GUIDE_PRODUCTS * _products(workload.frozen["guide"])
    return PRODUCT * pairs * share * products


def _products(rows: ModelRows) -> float:
    """The products of values that compare a query with a document."""
    return (rows.dimension or 1) * rows.query_vectors * rows.document_vectors


def _guide_values(workload: Workload) -> float:
    """The values of the guide for a document, which are compared like the model's; 0: there is no guide."""
    if "guide" not in workload.frozen:
        return 0.0
    guide = workload.frozen["guide"]
    return (guide.dimension or 0) * guide.document_vectors


def bytes_of_all_lists(workload: Workload) -> float:
    """The bytes of what losses that every rank computes as a whole read of the outputs for all lists of a step. (Those
    of a model's earlier layers are left out.)"""
    lists = workload.settings.trainer.batch_size
    documents = lists * workload.settings.trainer.list_size
    floats: dict[str, float] = dict.fromkeys(
        ("scores", "logsumexp", "reference_scores", "reference_logsumexp"), documents
    )
    models: dict[str, ModelRows] = {"": workload, **{f"{role}_": rows for role, rows in workload.frozen.items()}}
    if "teacher" in workload.frozen:
        floats["teacher_scores"] = documents
        models["projected_"] = workload.frozen["teacher"]
    for prefix, rows in models.items():
        dimension = rows.dimension or 0
        floats[f"{prefix}queries"] = lists * dimension * rows.query_vectors
        floats[f"{prefix}documents"] = documents * dimension * rows.document_vectors

    def read(loss: Any) -> set[str]:
        scored = loss.contract == "list" or workload.dimension is None
        return {*(("scores",) if scored else ("queries", "documents")), *input_names(loss)}

    used = losses_of(workload.settings).used
    of_losses = [sum(floats.get(name, 0) for each in whole_losses(loss) for name in read(each)) for loss in used]
    return FLOAT_BYTES * max(of_losses)


def _traffic_of_batch(workload: Workload, ranks: int, compared: int, device: str) -> list[Traffic]:
    """The traffic that depends on the batch: what every rank knows of all lists, the tokens that a rank runs, the
    representations of its own lists, and those of the texts that it compares with them; the gradients of both; and
    what frozen models and losses that are computed as a whole add."""
    floats = FLOAT_BYTES * (workload.dimension or 1) * workload.document_vectors
    auxiliary = sum(rows.mean_rows for role, rows in workload.frozen.items() if role != "reference")
    tokens, representations = _traffic_of_rows(workload, ranks)
    found = [
        _of_next_batch(gathered("lists", ROW_BYTES * workload.mean_rows + FROZEN_ROW_BYTES * auxiliary, ranks)),
        _of_next_batch(tokens),
        representations,
        replace(representations, name="representation_gradients"),
        *_traffic_of_frozen(workload, ranks),
    ]
    if outputs := bytes_of_all_lists(workload):
        found.append(gathered("outputs", outputs, ranks))
    if not compares_texts(workload) or compared == 1:
        return found
    documents = max(workload.mean_rows - workload.settings.trainer.batch_size, 0.0) * compared / ranks
    size, of_guide = floats * documents, FLOAT_BYTES * _guide_values(workload) * documents
    blocks = num_buckets(size + of_guide, BYTES_PER_BLOCK)
    passes = 2 if blocks > 1 else 1  # the backward gathers them again, unless they are one block
    texts = [gathered("texts", each, compared, blocks).repeated(passes) for each in (size, of_guide) if each]
    gradients = summed_in_shares("text_gradients", size, compared, device, blocks)
    return [*found, *(each.hidden("objective") for each in (*texts, gradients))]


def _traffic_of_rows(rows: ModelRows, ranks: int) -> tuple[Traffic, Traffic]:
    """The tokens that a rank runs, and the representations of its own lists."""
    away = (ranks - 1) / ranks  # the share of what a rank needs that another one has
    features = len(rows.features) - 1  # beside the mask, which a rank makes itself
    tokens = TOKEN_BYTES * features * rows.mean_tokens / ranks * away
    representations = FLOAT_BYTES * (rows.dimension or 1) * rows.mean_vectors / ranks * away
    return Traffic("tokens", tokens, 1, ranks - 1, on_host=True), Traffic("representations", representations)


def _traffic_of_frozen(workload: Workload, ranks: int) -> Iterator[Traffic]:
    """What frozen models exchange during a step: tokens, representations, and the reference's scores of all lists."""
    options = workload.settings.trainer
    for role, rows in workload.frozen.items():
        moved = [*_traffic_of_rows(rows, ranks)]
        if role == "reference":
            names = {name for loss in losses_of(workload.settings).used for name in input_names(loss)}
            fields = sum(name.startswith("reference_") for name in names)
            moved.append(gathered("outputs", FLOAT_BYTES * fields * options.batch_size * options.list_size, ranks))
        yield from (each.repeated(_times_in_step(workload, role)) for each in moved)


def _of_next_batch(traffic: Traffic) -> Traffic:
    """The traffic between hosts, while the device computes the step before."""
    return replace(traffic, behind="step", on_host=True)
