"""The reference: the model that training started from. Some losses and KL terms compare with its scores."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import ListBatch, ListExample, to_device
from data.cache import read_arrays
from data.collate import Collator
from data.progress import show_progress
from engines.checkpoint.manifest import flush
from engines.distributed import preemption
from engines.distributed.collectives import all_agree, broadcast_object
from engines.distributed.process_group import is_main
from engines.precision import MixedPrecision
from engines.protocol import Engine
from inference.runner import Runner
from losses.contracts import input_names
from losses.math.share import Share
from models.dropout import run_without_dropout
from models.lora import has_adapters, reference
from trainers.loss_inputs import inputs_without_gradient, part_of_lists
from trainers.record import REFERENCE_FILE
from trainers.sharded.share import Sharing
from trainers.source_losses import SourceLosses

logger = logging.getLogger(__name__)

ReadBatches = Callable[[range], Iterator[ListBatch]]


def make_reference(model: nn.Module, collator: Collator, losses: SourceLosses) -> Reference | None:
    """Make the reference of the losses; None if none of them needs it. Call it before an engine wraps `model`. With a
    reference the dropout of `model` is switched off."""
    comparing = [loss for loss in losses.used if reference_inputs(loss)]
    if not comparing:
        return None
    # With dropout, the model would differ from its reference before the first update.
    run_without_dropout(model, f"loss {type(comparing[0]).__name__}, which compares with a reference,")
    return Reference(model, collator, losses)


def reference_inputs(loss: Any) -> list[str]:
    """The inputs of a loss that come from the reference."""
    return [name for name in input_names(loss) if name.startswith("reference_")]


class Reference:
    """Scores documents with the model that training started from: a frozen copy, or the trained model with its adapters
    switched off.

    It fills the fields of `LossInputs` that one of the `losses` reads ("reference_scores", and "reference_logsumexp"
    for a policy over the vocabulary). `precompute` scores every list of the run that is compared with it before the
    first update and frees the copy.
    """

    def __init__(self, model: nn.Module, collator: Collator, losses: SourceLosses):
        self.copy = None if has_adapters(model) else copy.deepcopy(model).requires_grad_(False).eval()
        self.collator = collator
        self.losses = losses
        read = [name.removeprefix("reference_") for loss in losses.used for name in reference_inputs(loss)]
        self.fields = tuple(dict.fromkeys(read))
        self.batch_number: int | None = None
        self.batch_values: Tensor | None = None  # [own lists, n, fields] of batch `batch_number`
        self.stored: dict[int, list[float]] | None = None  # precomputed values of the fields, by hash of a pair

    def is_read(self, batch: ListBatch) -> bool:
        """Whether the loss of this batch compares with the reference."""
        return bool(reference_inputs(self.losses.of(batch.source)))

    def inputs(self, batch: ListBatch, engine: Engine, share: Share) -> dict[str, Tensor]:
        """The values reference_FIELD [lists, n] by name, of the lists of a share. They are kept for further updates
        on the same batch."""
        if self.batch_number != batch.number or self.batch_values is None:
            if self.stored is None:
                self.batch_values = self._score(batch, engine, share)
            else:
                self.batch_values = to_device(part_of_lists(self._stored_values(batch), share), engine.device)
            self.batch_number = batch.number
        values = self.batch_values.unbind(dim=-1)
        return {f"reference_{name}": value for name, value in zip(self.fields, values, strict=True)}

    def precompute(self, numbers: range, read: ReadBatches, folder: Path, engine: Engine) -> None:
        """Score all batches of these numbers, each pair once. The scores are saved in `folder`; a resumed run reads
        them and adds missing ones. A preemption stops it after a batch, the same one on all ranks."""
        file = folder / REFERENCE_FILE
        first_unscored, stored = broadcast_object(_read_scores(file) if is_main() else (0, {}))
        remaining = range(max(numbers.start, first_unscored), numbers.stop)
        batches = read(remaining)
        for batch in show_progress(batches, "scoring by the reference", len(remaining)):
            all_agree(True)
            if preemption.agreed():
                if is_main():
                    _write_scores(file, batch.number, stored)
                raise preemption.Preempted("while the reference was scored")
            if not self.is_read(batch):
                continue
            unscored = [each for each in batch.examples if any(pair not in stored for pair in _pair_hashes(each))]
            if unscored:
                part = ListBatch(batch.number, unscored)
                share = Sharing().of(part)
                values = share.gather(self._score(part, engine, share))
                for example, of_list in zip(unscored, values.tolist(), strict=True):
                    stored |= dict(zip(_pair_hashes(example), of_list, strict=False))  # without the padding
        if remaining and is_main():
            _write_scores(file, numbers.stop, stored)
        self.stored = stored
        self.copy = None

    def _stored_values(self, batch: ListBatch) -> Tensor:
        """The precomputed fields of every document [lists, n, fields]."""
        assert self.stored is not None
        values = [self.stored[pair] for example in batch.examples for pair in _pair_hashes(example)]
        return batch.to_lists(torch.tensor(values))

    def _score(self, batch: ListBatch, engine: Engine, share: Share) -> Tensor:
        """Compute the fields of every document in the lists of a share [own lists, n, fields]."""
        runner: Runner = engine
        adapters_off: AbstractContextManager[Any] = nullcontext()
        if self.copy is not None:
            runner = MixedPrecision(self.copy.to(engine.device), engine.autocast)
        else:
            adapters_off = reference(engine.model)
        sizes = batch.sequences_per_list
        with adapters_off:
            lists = inputs_without_gradient(runner, batch.sequences, sizes, self.collator, batch, share)
        return torch.stack(
            [lists.list_scores() if name == "scores" else getattr(lists, name) for name in self.fields], dim=-1
        )


def _pair_hashes(example: ListExample) -> list[int]:
    """A hash of each (query, document) pair, from the tokens that the model reads, prompts included."""
    contents = example.sequences.contents
    documents = len(contents) - len(example.document_ids)  # where they begin: in layout "texts" the query is the first
    query = contents[:documents].tobytes()
    digests = (hashlib.blake2b(query + content.tobytes(), digest_size=8).digest() for content in contents[documents:])
    return [int.from_bytes(digest, "big") >> 1 for digest in digests]


def _read_scores(file: Path) -> tuple[int, dict[int, list[float]]]:
    """Read the number of the first batch that is not scored yet, and the values of each pair by its hash."""
    if not file.is_file():
        return 0, {}
    try:
        arrays = read_arrays(file)
    except ValueError as error:
        logger.warning("the reference is scored again: %s", error)
        return 0, {}
    if "contents" not in arrays:
        logger.warning("the reference is scored again: %s names pairs as an earlier version did", file)
        return 0, {}
    return int(arrays["covered"]), dict(zip(arrays["contents"].tolist(), arrays["values"].tolist(), strict=True))


def _write_scores(file: Path, first_unscored: int, stored: Mapping[int, list[float]]) -> None:
    """Write the file atomically."""
    unfinished = file.with_name(f".tmp-{file.name}")
    pairs, values = np.array(list(stored), dtype=np.int64), np.array(list(stored.values()), np.float32)
    np.savez(unfinished, covered=first_unscored, contents=pairs, values=values)
    flush(unfinished)
    unfinished.replace(file)
