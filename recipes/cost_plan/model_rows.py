"""The rows that a model runs in the steps of a run: the trained one, or a frozen one beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import ListBatch, Repeats, TokenSequences
from engines.memory.live_bytes import FakeTensorModel
from inference.shared_prefix import list_collator
from models.capabilities import RankingModel
from models.lora import reference
from models.tokenization import UNLIMITED
from recipes.cost_plan.operations import FlopsOfChunks
from recipes.cost_plan.shapes import Shape, chunk_shapes
from recipes.run_config import RunConfig

TRAINED = "trained"  # the role of the model beside which there may be a "teacher", a "guide" and a "reference"


class AnyLength(ValueError):
    """A model reads texts of any length, and there are no data to say how long they are."""


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


class Frozen(nn.Module):
    """A model as a frozen one runs: without gradients, and `without_adapters` as the model that training began with."""

    def __init__(self, model: nn.Module, *, without_adapters: bool) -> None:
        super().__init__()
        self.model = model
        self.without_adapters = without_adapters

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        off: AbstractContextManager[Any] = reference(self.model) if self.without_adapters else nullcontext()
        with torch.no_grad(), off:
            output: dict[str, Tensor] = self.model(**features)
        return output


@dataclass(frozen=True, kw_only=True)
class ModelRows:
    """A model without weights, and the rows that it runs in some steps of a run."""

    settings: RunConfig
    model: FakeTensorModel
    features: dict[str, int]  # the features of a token: name -> an example value
    batches: list[list[int]]  # for some steps: the number of tokens of each row, or pack of rows
    flops: FlopsOfChunks
    pack: MeanPack | None = None  # None: a row is a sequence
    packs_rows: bool = False  # the rows of a chunk run without padding
    dimension: int | None = None  # of an embedding; None: rows have a score
    on_engine: bool = True  # the trained model, also as its own reference; False: a model of its own

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


def rows_of_model(
    settings: RunConfig,
    model: RankingModel,
    batches: Sequence[ListBatch | None] | None,
    role: str,
    *,
    packs_rows: bool,
    autocast: torch.dtype | None,
    without_adapters: bool = False,
) -> ModelRows:
    """The rows of the model of that role, in each of the batches (None: in a step in which it does not run). Without
    batches every row has the model's maximum length. `autocast`: the type of forward passes. `without_adapters`: see
    `Frozen`. The model gets fake weights.

    Raises AnyLength if there are no batches and the model has no maximum length.
    """
    options, tokenizer = settings.trainer, model.tokenizer
    example = TokenSequences.from_encoding(tokenizer.encode_list("a", ["b"]))
    query_rows = len(example) - 1  # rows of a list beside its documents: 1 in layout "texts", for the query
    pack = None
    if batches is None:
        if tokenizer.max_length >= UNLIMITED:
            option = f"{'model' if role in (TRAINED, 'reference') else role}.max_length"
            raise AnyLength(f"without the data there is no length of a text, as {option} is null: set {option}=512")
        lengths = [[tokenizer.max_length] * (options.batch_size * (options.list_size + query_rows))]
    else:
        read = [None if batch is None else _sequences(batch, role, options.merge_repeats) for batch in batches]
        lengths, pack = _rows_or_packs(read, model, options.token_budget)
    run: nn.Module = model if pack is None else PackedRows(model, pack)
    run = run if role == TRAINED else Frozen(run, without_adapters=without_adapters)
    fake = FakeTensorModel(run, autocast=autocast)
    features = dict.fromkeys(example.features, 0) | {"attention_mask": 1}
    packs_rows = packs_rows and pack is None
    shapes = [shape for own in lengths for shape in chunk_shapes(own, options.token_budget, packed=packs_rows)]
    return ModelRows(
        settings=settings,
        model=fake,
        features=features,
        batches=lengths,
        flops=FlopsOfChunks(fake, features, shapes),
        pack=pack,
        packs_rows=packs_rows,
        dimension=model.dimension,
        on_engine=role == TRAINED or without_adapters,
    )


Sequences = tuple[TokenSequences, list[int], Repeats | None]  # of all lists, the number of each list, equal ones


def _sequences(batch: ListBatch, role: str, merge_repeats: bool) -> Sequences:
    """The sequences that the model of a role runs: frozen ones run equal sequences once in any case."""
    if role == TRAINED:
        return batch.sequences, batch.sequences_per_list, batch.repeats if merge_repeats else None
    if role == "reference":
        return batch.sequences, batch.sequences_per_list, batch.sequences.repeats()
    sequences = batch.auxiliary_sequences(role)
    return sequences, [len(example.auxiliary[role]) for example in batch.examples], sequences.repeats()


def _rows_or_packs(
    batches: Sequence[Sequences | None], model: RankingModel, token_budget: int
) -> tuple[list[list[int]], MeanPack | None]:
    """The lengths of the rows of each batch, equal ones once, or of its packs, if lists share their prefix."""
    packs: list[tuple[int, int]] = []
    lengths: list[list[int]] = []
    collator_of_rows = list_collator(model, model.tokenizer.padding, token_budget)
    for batch in batches:
        if batch is None:
            lengths.append([])
            continue
        sequences, sizes, repeats = batch
        collator = collator_of_rows.of_lists(sequences, sizes, repeats)
        own = (sequences.lengths if repeats is None else sequences.lengths[repeats.first]).tolist()
        found = getattr(collator, "packs", ())
        packs += [(pack.prefix, own[index] - pack.prefix) for pack in found for index in pack.sequences]
        lengths.append([pack.length(own) for pack in found] or own)
    mean = MeanPack(*np.mean(packs, axis=0).tolist()) if packs else None
    return lengths, mean
