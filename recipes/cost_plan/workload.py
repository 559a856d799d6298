"""The workload that a memory plan measures: an empty model, the rows of its steps, the memory that a chunk takes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from data.batch import ListBatch
from data.collection import Collection
from data.sampling.mixture import Mixture, batches_per_epoch, make_loader
from engines.memory.allocator import peak_memory_bytes
from engines.memory.live_bytes import ChunkBytes
from engines.memory.state_bytes import FLOAT_BYTES, Parameters
from engines.optimizers import parameters_in_8bit
from inference.runner import similarity_of
from inference.vector_search import documents_at_once
from losses.contracts import input_names
from models.capabilities import RankingModel
from models.dropout import disable_dropout
from models.loading.backbone import without_weights
from models.lora import has_adapters
from recipes.build import in_batch_negatives, prepare
from recipes.chosen_losses import losses_of
from recipes.cost_plan.model_rows import TRAINED, ModelRows, rows_of_model
from recipes.cost_plan.shapes import Shape, columns, sample_shapes
from recipes.prompts import expect_prompts
from recipes.run_config import RunConfig
from recipes.trained_parts import check_trained_parts
from trainers.refresh.rankings import QUERY_BLOCK

SAMPLED_BATCHES = 8
SAMPLED_ROWS = 8192  # after so many rows no further batch is sampled
KEY_BYTES = 8  # of a found document in `inference.search.BlockSearch`


@dataclass(frozen=True, kw_only=True)
class Workload(ModelRows):
    """The trained model without weights, the rows of its steps, the frozen models beside it, and the memory of the
    process that reads the data."""

    parameters: Parameters
    frozen: Mapping[str, ModelRows] = field(default_factory=dict)  # that run in a step: "teacher", "guide", "reference"
    frozen_bytes: float  # weights of the reference, the teacher and the guide
    max_length: int
    reading_bytes: int  # peak memory of the process while it read the data
    batches_per_epoch: int | None = None  # None: without the data
    search_bytes: float = 0.0  # of a search of the corpus that refreshes candidates, beside the forward of a chunk


def build_workload(settings: RunConfig, data: Collection | Mixture | None, *, autocast: torch.dtype | None) -> Workload:
    """Build the workload of a run without stages on its training data. Without them every row has the model's maximum
    length. `autocast`: the type of forward passes.

    Raises ValueError, before any weight is read, if a part of the model is frozen that its options ask to train.
    """
    losses = losses_of(settings)
    models = _build_models(settings)
    model = models[TRAINED]
    adapted = "reference" in models and has_adapters(models["reference"])  # the reference is no copy
    copies = [each for role, each in models.items() if role != TRAINED and not (role == "reference" and adapted)]
    frozen_bytes = sum(FLOAT_BYTES * count_parameters(each).total for each in copies)
    for role in {TRAINED, "reference"} & models.keys():
        prepare(models[role], *losses.used)
    check_trained_parts(settings.model, model)
    parameters = count_parameters(model)
    compiled = getattr(settings.engine, "compile", False)
    packs_rows = {role: each.packs_rows and not (compiled and role == TRAINED) for role, each in models.items()}
    for each in models.values():
        simplify(each, settings)
    batches = None
    if data is not None:
        expect_prompts(model, data)
        batches = _batches(settings, data, models)
    rows = {}
    for role, each in models.items():
        read: list[ListBatch | None] | None = None
        if batches is not None:
            read = [batch if _runs(role, losses.of(batch.source)) else None for batch in batches]
        options: Any = {"packs_rows": packs_rows[role], "without_adapters": role == "reference" and adapted}
        rows[role] = rows_of_model(settings, each, read, role, autocast=autocast, **options)
    trained = rows.pop(TRAINED)
    return Workload(
        **vars(trained),
        parameters=parameters,
        frozen={role: of_model for role, of_model in rows.items() if any(_runs(role, loss) for loss in losses.used)},
        frozen_bytes=frozen_bytes,
        max_length=model.tokenizer.max_length,
        reading_bytes=peak_memory_bytes(),
        batches_per_epoch=None if data is None else batches_per_epoch(data, settings.trainer.batch_size),
        search_bytes=search_bytes(settings, data, model, trained.query_vectors, trained.document_vectors),
    )


def _build_models(settings: RunConfig) -> dict[str, RankingModel]:
    """The models of the run by role, without weights: the trained one and those that are frozen."""
    options = {TRAINED: settings.model, "teacher": settings.teacher, "guide": settings.guide}
    if compares_with_reference(settings) and settings.trainer.reference == "frozen":
        options["reference"] = settings.model
    with without_weights():
        return {role: each.build(settings.seed) for role, each in options.items() if each is not None}


def _runs(role: str, loss: Any) -> bool:
    """Whether the model of a role runs in a step with that loss."""
    return role == TRAINED or any(name.startswith(f"{role}_") for name in input_names(loss))


def search_bytes(
    settings: RunConfig,
    data: Collection | Mixture | None,
    model: RankingModel,
    query_vectors: float,
    document_vectors: float,
) -> float:
    """The memory of a search by which `trainer.refresh_every` refreshes candidates; 0 if there is none, or for a
    reranker, which searches nothing. Without data, for `trainer.refresh_queries`."""
    options = settings.trainer
    if not options.refresh_every or model.dimension is None:
        return 0.0
    sources = data.sources.values() if data is not None else ()
    largest = max((len(source.split("train").queries) for source in sources), default=options.refresh_queries or 0)
    queries = min(largest, options.refresh_queries or largest)
    block = documents_at_once(similarity_of(model), model.dimension, model.tokenizer)
    vectors = queries * query_vectors + 2 * block * document_vectors  # gathered ones are a copy
    embeddings = FLOAT_BYTES * model.dimension * vectors
    compared = QUERY_BLOCK * block * (FLOAT_BYTES + 2 * KEY_BYTES)
    return embeddings + KEY_BYTES * queries * options.refresh_depth + compared


def count_parameters(model: nn.Module) -> Parameters:
    """The number of parameters: all, those that are trained, the largest of these, and those that have moments in 8
    bits under trainer.optimizer=adamw_8bit."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    trained = [size for size, trains in sizes if trains]
    in_8bit = sum(parameter.numel() for parameter in parameters_in_8bit(model))
    return Parameters(sum(size for size, _ in sizes), sum(trained), max(trained, default=0), in_8bit)


def simplify(model: RankingModel, settings: RunConfig) -> None:
    """Make `model` traceable, and switch its dropout off if it is off in training."""
    model.simplify_for_tracing()
    if settings.trainer.runs_without_dropout or compares_with_reference(settings):
        disable_dropout(model)


def compares_with_reference(settings: RunConfig) -> bool:
    """Whether a loss compares with the model that training started from."""
    return any("reference_scores" in input_names(loss) for loss in losses_of(settings).used)


def _batches(settings: RunConfig, data: Collection | Mixture, models: Mapping[str, RankingModel]) -> list[ListBatch]:
    """The run's first batches, with the sequences of its models."""
    options = settings.trainer
    loader = make_loader(
        data,
        models[TRAINED].tokenizer,
        list_size=options.list_size,
        batch_size=options.batch_size,
        seed=settings.seed,
        rank=0,
        world_size=1,
        workers=0,
        **in_batch_negatives(losses_of(settings)),
        auxiliary={role: models[role].tokenizer for role in ("teacher", "guide") if role in models},
    )
    batches: list[ListBatch] = []
    for number, examples in enumerate(islice(loader.iterate(0), SAMPLED_BATCHES)):
        batches.append(ListBatch(number, list(examples)))
        if sum(len(batch.sequences) for batch in batches) >= SAMPLED_ROWS:
            break
    return batches


_TRACES: dict[Hashable, ChunkBytes] = {}


def _traced(workload: Workload, shape: Shape) -> ChunkBytes:
    """The memory of a chunk of that shape. A trace of a language model takes seconds, so that the plans of an ablation
    share those of equal models."""
    module, model = workload.model.model, repr(workload.settings.model)
    trained = tuple(parameter.requires_grad for parameter in module.parameters())
    run = (repr(workload.pack), tuple(workload.features.items()), workload.model.runner.autocast)
    key = (model, repr(module), trained, run, shape)
    if key not in _TRACES:
        _TRACES[key] = workload.model.chunk(workload.features, *shape)
    return _TRACES[key]


class ChunkCosts:
    """The memory (`ChunkBytes`) of any chunk of a workload, from a fit to the memory of some traced chunks.

    The model of the fit is n (a L^2 + b L + c) + d for n rows of L tokens: a for attention matrices, b for
    activations, c for a row, d for any chunk (weights cast by autocast).
    """

    def __init__(self, workload: Workload, shapes: Sequence[Shape]) -> None:
        traced = sample_shapes(shapes)
        costs = [_traced(workload, shape) for shape in traced]
        rows = np.array([columns(shape) for shape in traced])
        scale = rows.max(axis=0)
        self._fits = {}
        for name in ChunkBytes.__dataclass_fields__:
            fit, _ = nnls(rows / scale, np.array([getattr(cost, name) for cost in costs]))
            self._fits[name] = fit / scale

    def __call__(self, shape: Shape) -> ChunkBytes:
        row = np.array(columns(shape))
        return ChunkBytes(**{name: float(row @ fit) for name, fit in self._fits.items()})
