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
from engines.checkpoint.manifest import flush
from engines.distributed import preemption
from engines.distributed.collectives import all_agree, broadcast_object
from engines.distributed.process_group import is_main
from engines.precision import MixedPrecision
from engines.protocol import Engine
from inference.score import Forward, represent_rows
from models.lora import has_adapters, reference
from runs.files import REFERENCE_FILE
from trainers.loss_inputs import make_loss_inputs

logger = logging.getLogger(__name__)

ReadBatches = Callable[[range], Iterator[ListBatch]]


class Reference:
    """What the model that training started from says of every document: a frozen copy, or the trained one without its
    adapters.

    `fields`: of `LossInputs`, those wanted ("scores", and "logsumexp" for a policy over the vocabulary). `precompute`
    makes them for every list of the run before the first update and lets go of the copy. Made before an engine wraps
    `model`.
    """

    def __init__(self, model: nn.Module, padding: Mapping[str, int], token_budget: int, fields: Sequence[str]):
        self.copy = None if has_adapters(model) else copy.deepcopy(model).requires_grad_(False).eval()
        self.padding = padding
        self.token_budget = token_budget
        self.fields = tuple(fields)
        self.number: int | None = None
        self.of_batch: Tensor | None = None
        self.known: dict[int, list[float]] | None = None  # by hash of the rows of a query and a document

    def inputs(self, batch: ListBatch, engine: Engine) -> dict[str, Tensor]:
        """reference_FIELD [lists, n] by name; kept for further updates on the same batch."""
        if self.number != batch.number or self.of_batch is None:
            found = self._look(batch, engine) if self.known is None else self._known_scores(batch)
            self.number, self.of_batch = batch.number, found
        values = self.of_batch.to(engine.device).unbind(dim=-1)
        return {f"reference_{name}": value for name, value in zip(self.fields, values, strict=True)}

    def precompute(self, numbers: range, read: ReadBatches, folder: Path, engine: Engine) -> None:
        """For all batches of these numbers, each pair once; kept in `folder`, from which a resumed run reads them and
        goes on where it needs more. A preemption ends it after a batch, on all ranks alike."""
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
                found = self._look(ListBatch(batch.number, unknown), engine).tolist()
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

    def _look(self, batch: ListBatch, engine: Engine) -> Tensor:
        """[lists, n, fields]."""
        forward: Forward = engine.forward
        starting: AbstractContextManager[Any] = nullcontext()
        if self.copy is not None:
            forward = MixedPrecision(self.copy.to(engine.device), engine.bf16).forward
        else:
            starting = reference(engine.model)
        with starting:
            found = represent_rows(forward, batch.rows, self.padding, self.token_budget, engine.device)
        lists = make_loss_inputs(found, batch)
        return torch.stack(
            [lists.list_scores() if name == "scores" else getattr(lists, name) for name in self.fields], dim=-1
        )


def _pairs(example: ListExample) -> list[int]:
    """A key of each document with its query: a hash of the tokens that the model reads, prompts included."""
    rows = np.split(example.rows.features["input_ids"], np.cumsum(example.rows.lengths)[:-1])
    first = b"" if len(rows) == len(example.document_ids) else rows.pop(0).tobytes()  # rows of texts: the query's own
    digests = (hashlib.blake2b(first + b"|" + row.tobytes(), digest_size=8).digest() for row in rows)
    return [int.from_bytes(digest, "big") >> 1 for digest in digests]


def _read_known(file: Path) -> tuple[int, dict[int, list[float]]]:
    """The number of the first batch that is not scored, and the values of each pair."""
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
