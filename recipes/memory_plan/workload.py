"""What a memory plan is made for: an empty model, the rows of its steps, and what a chunk of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from scipy.optimize import nnls
from torch import nn

from data.batch import TokenSequences
from data.collate import Collator
from data.sampling.mixture import make_loader
from engines.memory.allocator import keep_freed_memory, peak_memory_bytes
from engines.memory.live_bytes import ChunkBytes, FakeTensorModel
from engines.memory.state_bytes import FLOAT_BYTES, Parameters
from losses.contracts import has_in_batch_negatives, input_names
from models.capabilities import RankingModel
from models.dropout import disable_dropout
from models.loading.backbone import without_weights
from models.lora import has_adapters
from recipes.build import prepare
from recipes.compatibility import check_data, check_parts
from recipes.run_config import RunConfig

SAMPLED_BATCHES = 8
SAMPLED_ROWS = 8192  # no further batch beyond so many
TRACED_SHAPES = 6

Shape = tuple[int, int]  # rows, tokens of each


@dataclass(frozen=True)
class Subject:
    """What a plan is made for: the empty model, the rows of its steps, the process that holds them."""

    settings: RunConfig
    model: FakeTensorModel
    features: dict[str, int]  # of a token: name -> a value
    parameters: Parameters
    frozen_bytes: float  # of the reference, the teacher and the guide
    batches: list[list[int]]  # tokens of each row, of some steps
    max_length: int
    reading_bytes: int  # the most that the process held while it read the data


def find_subject(settings: RunConfig, *, reads_data: bool, bf16: bool) -> Subject:
    """Raises ValueError as training would, before any weight is read. Without `reads_data` all rows are as long as the
    model takes them."""
    check_parts(settings)
    keep_freed_memory()
    collection = settings.data.build() if reads_data else None
    if collection is not None:
        check_data(settings, collection)
    with without_weights():
        model = settings.model.build(settings.seed)
        others = [other.build(settings.seed) for other in (settings.teacher, settings.guide) if other is not None]
    copied = "reference_scores" in input_names(settings.loss) and not has_adapters(model)
    others += [model] if copied and settings.trainer.reference == "frozen" else []
    frozen_bytes = sum(FLOAT_BYTES * count_parameters(other).total for other in others)
    prepare(model, settings.loss)
    parameters = count_parameters(model)
    simplify(model, settings)
    tokenizer = model.tokenizer
    example = TokenSequences.from_encoding(tokenizer.encode_list("a", ["b"]))
    rows = len(example) - 1  # of a list, beside its documents: the query's own, in the layout "texts"
    batches = _batches(settings, collection, tokenizer) if collection is not None else None
    if batches is None:
        per_list = settings.trainer.list_size + rows
        batches = [[tokenizer.max_length] * (settings.trainer.batch_size * per_list)]
    reading = peak_memory_bytes()
    return Subject(
        settings,
        FakeTensorModel(model, bf16=bf16),
        dict.fromkeys(example.features, 0) | {"attention_mask": 1},
        parameters,
        frozen_bytes,
        batches,
        tokenizer.max_length,
        reading,
    )


def count_parameters(model: nn.Module) -> Parameters:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    trained = [size for size, trains in sizes if trains]
    return Parameters(sum(size for size, _ in sizes), sum(trained), max(trained, default=0))


def simplify(model: RankingModel, settings: RunConfig) -> None:
    """Make `model` one that can be traced, with dropout off if it is off in training."""
    model.simplify_for_tracing()
    if settings.trainer.runs_without_dropout or "reference_scores" in input_names(settings.loss):
        disable_dropout(model)


def _batches(settings: RunConfig, collection: Any, tokenizer: Any) -> list[list[int]]:
    """Row lengths of the run's first batches."""
    options = settings.trainer
    loader = make_loader(
        collection,
        tokenizer,
        list_size=options.list_size,
        batch_size=options.batch_size,
        seed=settings.seed,
        rank=0,
        world_size=1,
        workers=0,
        in_batch_negatives=has_in_batch_negatives(settings.loss),
    )
    found: list[list[int]] = []
    for batch in islice(loader.iterate(0), SAMPLED_BATCHES):
        found.append([int(length) for example in batch for length in example.sequences.lengths])
        if sum(map(len, found)) >= SAMPLED_ROWS:
            break
    return found


class ChunkCosts:
    """`ChunkBytes` of any chunk of a subject, fitted to some that are traced.

    Each of them is n (a L^2 + b L + c) + d for n rows of L tokens: attention matrices, activations, what a row
    costs, what any chunk does (weights cast by autocast).
    """

    def __init__(self, subject: Subject, shapes: Sequence[Shape]) -> None:
        traced = _spread(sorted(set(shapes), key=lambda shape: (shape[1], shape[0])))
        costs = [subject.model.chunk(subject.features, *shape) for shape in traced]
        columns = np.array([_columns(shape) for shape in traced])
        scale = columns.max(axis=0)
        self._fits = {}
        for name in ChunkBytes.__dataclass_fields__:
            found, _ = nnls(columns / scale, np.array([getattr(cost, name) for cost in costs]))
            self._fits[name] = found / scale

    def __call__(self, shape: Shape) -> ChunkBytes:
        columns = _columns(shape)
        return ChunkBytes(**{name: float(columns @ fit) for name, fit in self._fits.items()})


def _columns(shape: Shape) -> np.ndarray:
    rows, tokens = shape
    return np.array([rows * tokens**2, rows * tokens, rows, 1.0])


def _spread(shapes: list[Shape]) -> list[Shape]:
    """Up to TRACED_SHAPES of them, from first to last, and one of half the rows, which tells rows from constants."""
    chosen = {shapes[round(i * (len(shapes) - 1) / (TRACED_SHAPES - 1))] for i in range(TRACED_SHAPES)}
    rows, tokens = max(chosen, key=lambda shape: shape[0] * shape[1])
    return sorted(chosen | {(max(rows // 2, 1), tokens), (rows, max(tokens // 2, 8))})


def chunk_shapes(lengths: Sequence[int], token_budget: int) -> list[Shape]:
    """The shape of each chunk of a step with sequences of these lengths."""
    collator = Collator({}, token_budget)
    return [collator.shape(lengths, chunk) for chunk in collator.plan(lengths)]
