"""The reference: the model that training started from, whose scores some losses and divergences compare with."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.batch import ListBatch, ListExample
from data.cache import read_arrays
from data.collate import Collator
from engines.checkpoint.manifest import flush
from engines.distributed import preemption
from engines.distributed.collectives import all_agree, broadcast_object
from engines.distributed.process_group import is_main
from engines.precision import MixedPrecision
from engines.protocol import Engine
from inference.runner import Runner, similarity_of
from inference.score import represent_sequences
from losses.contracts import input_names
from models.dropout import run_without_dropout
from models.lora import has_adapters, reference
from trainers.loss_inputs import make_loss_inputs
from trainers.record import REFERENCE_FILE

logger = logging.getLogger(__name__)

ReadBatches = Callable[[range], Iterator[ListBatch]]


def make_reference(model: nn.Module, collator: Collator, loss: Any) -> Reference | None:
    """The reference that a loss compares with; None if it compares with none. Call it before an engine wraps `model`,
    whose dropout is switched off beside a reference."""
    fields = [name.removeprefix("reference_") for name in input_names(loss) if name.startswith("reference_")]
    if not fields:
        return None
    # Otherwise the model would differ from its reference before the first update.
    run_without_dropout(model, f"loss {type(loss).__name__}, which compares with a reference,")
    return Reference(model, collator, fields)


class Reference:
    """Scores documents with the model that training started from: a frozen copy of it, or the trained model without its
    adapters.

    `fields`: the fields of `LossInputs` to fill ("scores", and "logsumexp" for a policy over the vocabulary).
    `precompute` fills them for every list of the run before the first update and frees the copy.
    """

    def __init__(self, model: nn.Module, collator: Collator, fields: Sequence[str]):
        self.copy = None if has_adapters(model) else copy.deepcopy(model).requires_grad_(False).eval()
        self.collator = collator
        self.fields = tuple(fields)
        self.number: int | None = None
        self.of_batch: Tensor | None = None  # [lists, n, fields] of batch `number`
        self.known: dict[int, list[float]] | None = None  # by hash of the rows of a query and a document

    def inputs(self, batch: ListBatch, engine: Engine) -> dict[str, Tensor]:
        """reference_FIELD [lists, n] by name; kept for further updates on the same batch."""
        if self.number != batch.number or self.of_batch is None:
            found = self._score(batch, engine) if self.known is None else self._known_scores(batch)
            self.number, self.of_batch = batch.number, found
        values = self.of_batch.to(engine.device).unbind(dim=-1)
        return {f"reference_{name}": value for name, value in zip(self.fields, values, strict=True)}

    def precompute(self, numbers: range, read: ReadBatches, folder: Path, engine: Engine) -> None:
        """Score all batches of these numbers, each pair once. The scores are kept in `folder`, where a resumed run
        reads them and adds those that it lacks. A preemption ends it after a batch, on all ranks alike."""
        file = folder / REFERENCE_FILE
        covered, known = broadcast_object(_read_known(file) if is_main() else (0, {}))
        left = range(max(numbers.start, covered), numbers.stop)
        for batch in tqdm(read(left), desc="reference", total=len(left), unit="batch", delay=2, disable=not is_main()):
            all_agree(True)
            if preemption.agreed():
                if is_main():
                    _write_known(file, batch.number, known)
                raise preemption.Preempted("while the reference was scored")
            unknown = [example for example in batch.examples if any(pair not in known for pair in _pairs(example))]
            if unknown:
                found = self._score(ListBatch(batch.number, unknown), engine).tolist()
                for example, row in zip(unknown, found, strict=True):
                    known |= dict(zip(_pairs(example), row, strict=False))  # without the padding
        if left and is_main():
            _write_known(file, numbers.stop, known)
        self.known = known
        self.copy = None

    def _known_scores(self, batch: ListBatch) -> Tensor:
        assert self.known is not None
        known = [self.known[pair] for example in batch.examples for pair in _pairs(example)]
        return batch.to_lists(torch.tensor(known))

    def _score(self, batch: ListBatch, engine: Engine) -> Tensor:
        """The fields of every document [lists, n, fields]."""
        runner: Runner = engine
        starting: AbstractContextManager[Any] = nullcontext()
        if self.copy is not None:
            runner = MixedPrecision(self.copy.to(engine.device), engine.bf16)
        else:
            starting = reference(engine.model)
        with starting:
            found = represent_sequences(runner, batch.sequences, self.collator)
        lists = make_loss_inputs(found, batch, similarity=similarity_of(runner.model))
        return torch.stack(
            [lists.list_scores() if name == "scores" else getattr(lists, name) for name in self.fields], dim=-1
        )


def _pairs(example: ListExample) -> list[int]:
    """A hash of each document with its query: of the tokens that the model reads, prompts included."""
    rows = np.split(example.sequences.features["input_ids"], np.cumsum(example.sequences.lengths)[:-1])
    first = b"" if len(rows) == len(example.document_ids) else rows.pop(0).tobytes()  # rows of texts: the query's own
    digests = (hashlib.blake2b(first + b"|" + row.tobytes(), digest_size=8).digest() for row in rows)
    return [int.from_bytes(digest, "big") >> 1 for digest in digests]


def _read_known(file: Path) -> tuple[int, dict[int, list[float]]]:
    """The number of the first batch that is not scored yet, and the values of each pair."""
    if not file.is_file():
        return 0, {}
    try:
        stored = read_arrays(file)
    except ValueError as error:
        logger.warning("the reference is scored again: %s", error)
        return 0, {}
    return int(stored["covered"]), dict(zip(stored["pairs"].tolist(), stored["values"].tolist(), strict=True))


def _write_known(file: Path, covered: int, known: Mapping[int, list[float]]) -> None:
    unfinished = file.with_name(f".tmp-{file.name}")
    pairs, values = np.array(list(known), dtype=np.int64), np.array(list(known.values()), np.float32)
    np.savez(unfinished, covered=covered, pairs=pairs, values=values)
    flush(unfinished)
    unfinished.replace(file)
