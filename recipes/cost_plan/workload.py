"""The workload that a memory plan measures: an empty model, the rows of its steps, the memory that a chunk takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from data.batch import ListBatch, TokenSequences
from data.collection import Collection
from data.sampling.mixture import Mixture, batches_per_epoch, make_loader
from engines.memory.allocator import peak_memory_bytes
from engines.memory.live_bytes import ChunkBytes, FakeTensorModel
from engines.memory.state_bytes import FLOAT_BYTES, Parameters
from engines.optimizers import parameters_in_8bit
from inference.shared_prefix import list_collator
from losses.contracts import input_names
from models.capabilities import RankingModel
from models.dropout import disable_dropout
from models.loading.backbone import without_weights
from models.lora import has_adapters
from recipes.build import in_batch_negatives, prepare
from recipes.chosen_losses import losses_of
from recipes.cost_plan.shapes import Shape, chunk_shapes, columns, sample_shapes
from recipes.prompts import expect_prompts
from recipes.run_config import RunConfig
from recipes.trained_parts import check_trained_parts
from trainers.options import TrainerConfig
from trainers.refresh.rankings import DOCUMENT_BLOCK, QUERY_BLOCK

SAMPLED_BATCHES = 8
SAMPLED_ROWS = 8192  # after so many rows no further batch is sampled
KEY_BYTES = 8  # of a found document in `inference.search.BlockSearch`


@dataclass(frozen=True)
class MeanPack:
    """The mean pack of a run whose lists share their prefix: tokens of the prefix, own tokens of each prompt."""

    prefix: float
    own: float


class PackedRows(nn.Module):
    """A model that reads packs, with the inputs of one that reads rows: each row is a pack like the mean one."""

    def __init__(self, model: nn.Module, pack: MeanPack) -> None:
        super().__init__()
        self.model = model
        self.pack = pack

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        rows, tokens = input_ids.shape
        prefix = min(round(self.pack.prefix), tokens - 1)
        prompts = max(round((tokens - prefix) / self.pack.own), 1)
        own = -(-(tokens - prefix) // prompts)
        of_tokens = {name: input_ids.new_zeros(rows, tokens) for name in ("position_ids", "segment_ids", "places")}
        own_tokens, seen = (input_ids.new_zeros(rows * prompts, length) for length in (own, prefix + own))
        ends = input_ids.new_zeros(rows, prompts)
        output: dict[str, Tensor] = self.model(
            input_ids, attention_mask, ends=ends, own_tokens=own_tokens, seen_tokens=seen, **of_tokens
        )
        return output


@dataclass(frozen=True)
class Workload:
    """The model without weights, the rows of its steps, and the memory of the process that reads the data."""

    settings: RunConfig
    model: FakeTensorModel
    features: dict[str, int]  # the features of a token: name -> an example value
    parameters: Parameters
    frozen_bytes: float  # weights of the reference, the teacher and the guide
    batches: list[list[int]]  # for some steps: the number of tokens of each row, or pack of rows
    max_length: int
    reading_bytes: int  # peak memory of the process while it read the data
    batches_per_epoch: int | None = None  # None: without the data
    pack: MeanPack | None = None  # None: a row is a sequence
    packs_rows: bool = False  # the rows of a chunk run without padding
    dimension: int | None = None  # of an embedding; None: rows have a score
    search_bytes: float = 0.0  # of a search of the corpus that refreshes candidates, beside the forward of a chunk

    @property
    def mean_rows(self) -> float:
        """The rows of a step: those that run, equal ones once."""
        return sum(map(len, self.batches)) / len(self.batches)

    @property
    def mean_tokens(self) -> float:
        """The tokens of these rows."""
        return sum(map(sum, self.batches)) / len(self.batches)

    def chunk_shapes(self, lengths: Sequence[int]) -> list[Shape]:
        """The shape of each chunk of a step with rows of these lengths."""
        return chunk_shapes(lengths, self.settings.trainer.token_budget, packed=self.packs_rows)


def build_workload(settings: RunConfig, data: Collection | Mixture | None, *, autocast: torch.dtype | None) -> Workload:
    """Build the workload of a run without stages on its training data. Without them every row has the model's maximum
    length. `autocast`: the type of forward passes.

    Raises ValueError, before any weight is read, if a part of the model is frozen that its options ask to train.
    """
    with without_weights():
        model = settings.model.build(settings.seed)
        frozen = [options.build(settings.seed) for options in (settings.teacher, settings.guide) if options is not None]
    copied = compares_with_reference(settings) and not has_adapters(model)
    frozen += [model] if copied and settings.trainer.reference == "frozen" else []
    frozen_bytes = sum(FLOAT_BYTES * count_parameters(each).total for each in frozen)
    prepare(model, *losses_of(settings).used)
    check_trained_parts(settings.model, model)
    parameters = count_parameters(model)
    packs_rows = model.packs_rows and not getattr(settings.engine, "compile", False)
    simplify(model, settings)
    if data is not None:
        expect_prompts(model, data)
    tokenizer = model.tokenizer
    example = TokenSequences.from_encoding(tokenizer.encode_list("a", ["b"]))
    query_rows = len(example) - 1  # rows of a list beside its documents: 1 in layout "texts", for the query
    pack = None
    if data is not None:
        batches, pack = _rows_or_packs(_batches(settings, data, tokenizer), model, settings.trainer)
    else:
        per_list = settings.trainer.list_size + query_rows
        batches = [[tokenizer.max_length] * (settings.trainer.batch_size * per_list)]
    reading = peak_memory_bytes()
    return Workload(
        settings,
        FakeTensorModel(model if pack is None else PackedRows(model, pack), autocast=autocast),
        dict.fromkeys(example.features, 0) | {"attention_mask": 1},
        parameters,
        frozen_bytes,
        batches,
        tokenizer.max_length,
        reading,
        None if data is None else batches_per_epoch(data, settings.trainer.batch_size),
        pack,
        packs_rows and pack is None,
        model.dimension,
        search_bytes(settings, data, model.dimension),
    )


def search_bytes(settings: RunConfig, data: Collection | Mixture | None, dimension: int | None) -> float:
    """The memory of a search by which `trainer.refresh_every` refreshes candidates; 0 if there is none, or for a
    reranker, which searches nothing. Without data, for `trainer.refresh_queries`."""
    options = settings.trainer
    if not options.refresh_every or dimension is None:
        return 0.0
    sources = data.sources.values() if data is not None else ()
    largest = max((len(source.split("train").queries) for source in sources), default=options.refresh_queries or 0)
    queries = min(largest, options.refresh_queries or largest)
    embeddings = FLOAT_BYTES * dimension * (queries + 2 * DOCUMENT_BLOCK)  # gathered ones are a copy
    compared = QUERY_BLOCK * DOCUMENT_BLOCK * (FLOAT_BYTES + 2 * KEY_BYTES)
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


def _rows_or_packs(
    batches: Sequence[ListBatch], model: RankingModel, options: TrainerConfig
) -> tuple[list[list[int]], MeanPack | None]:
    """The lengths of the rows of each batch, equal ones once, or of its packs, if lists share their prefix."""
    packs, lengths = [], []
    collator_of_rows = list_collator(model, model.tokenizer.padding, options.token_budget)
    for batch in batches:
        repeats = batch.repeats if options.merge_repeats else None
        collator = collator_of_rows.of_lists(batch.sequences, batch.sequences_per_list, repeats)
        own = (batch.sequences.lengths if repeats is None else batch.sequences.lengths[repeats.first]).tolist()
        found = getattr(collator, "packs", ())
        packs += [(pack.prefix, own[index] - pack.prefix) for pack in found for index in pack.sequences]
        lengths.append([pack.length(own) for pack in found] or own)
    mean = MeanPack(*np.mean(packs, axis=0).tolist()) if packs else None
    return lengths, mean


def _batches(settings: RunConfig, data: Collection | Mixture, tokenizer: Any) -> list[ListBatch]:
    """The run's first batches."""
    options = settings.trainer
    loader = make_loader(
        data,
        tokenizer,
        list_size=options.list_size,
        batch_size=options.batch_size,
        seed=settings.seed,
        rank=0,
        world_size=1,
        workers=0,
        **in_batch_negatives(losses_of(settings)),
    )
    batches: list[ListBatch] = []
    for number, examples in enumerate(islice(loader.iterate(0), SAMPLED_BATCHES)):
        batches.append(ListBatch(number, list(examples)))
        if sum(len(batch.sequences) for batch in batches) >= SAMPLED_ROWS:
            break
    return batches


class ChunkCosts:
    """The memory (`ChunkBytes`) of any chunk of a workload, from a fit to the memory of some traced chunks.

    The model of the fit is n (a L^2 + b L + c) + d for n rows of L tokens: a for attention matrices, b for
    activations, c for a row, d for any chunk (weights cast by autocast).
    """

    def __init__(self, workload: Workload, shapes: Sequence[Shape]) -> None:
        traced = sample_shapes(shapes)
        costs = [workload.model.chunk(workload.features, *shape) for shape in traced]
        rows = np.array([columns(shape) for shape in traced])
        scale = rows.max(axis=0)
        self._fits = {}
        for name in ChunkBytes.__dataclass_fields__:
            fit, _ = nnls(rows / scale, np.array([getattr(cost, name) for cost in costs]))
            self._fits[name] = fit / scale

    def __call__(self, shape: Shape) -> ChunkBytes:
        row = np.array(columns(shape))
        return ChunkBytes(**{name: float(row @ fit) for name, fit in self._fits.items()})
