"""The scale of a teacher's scores: their mean and standard deviation, for losses that standardise them.

They are measured once, before the first update, on the first training lists of each data set. These are functions of
the seed, and every rank reads all scores of a list, so the values are the same on any number of ranks. They are part of
the state of training (`TrainState`): a resumed run continues with the same values. What a fresh score head is given
(`RankingModel.scale_scores`) is part of it too, and of the export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from data.batch import ListBatch
from data.progress import show_progress
from losses.contracts import standardizes_teacher
from losses.math.share import Share
from trainers.loss_inputs import part_of_lists
from trainers.sharded.share import Sharing
from trainers.source_losses import SourceLosses
from trainers.teacher import AuxiliaryModel

SAMPLE = 1_000  # scores of each data set, at least, if it has as many: the mean is then exact to 3% of the deviation
POOLED = "*"  # the key of all data sets together; no data set has that name

Scales = dict[str, list[float]]  # mean and deviation by data set, and of all of them under POOLED
ReadBatches = Callable[[range], Iterator[ListBatch]]


def measure_scales(
    read: ReadBatches, numbers: range, losses: SourceLosses, models: Mapping[str, AuxiliaryModel]
) -> Scales:
    """Measure the mean and deviation of the teacher's scores in the batches of these numbers; empty if no loss
    standardises them.

    Raises ValueError if a data set has no two different scores.
    """
    names = [name for name in losses.by_source or {"": None} if standardizes_teacher(losses.of(name))]
    if not names:
        return {}
    found: dict[str, list[Tensor]] = {}
    with closing(iter(read(numbers))) as batches:  # type: ignore[type-var]
        for batch in show_progress(batches, "measuring the teacher's scores"):
            scores = found.setdefault(batch.source if losses.by_source else "", [])
            if standardizes_teacher(losses.of(batch.source)) and sum(map(len, scores)) < SAMPLE:
                scores.append(_finite_scores(batch, models.get("teacher")))
            if all(sum(map(len, found.get(name, []))) >= SAMPLE for name in names):
                break
    scales = {name: _mean_and_deviation(name, found[name]) for name in names if found.get(name)}
    return scales | {POOLED: _mean_and_deviation("", [each for name in scales for each in found[name]])}


def standardized_inputs(
    scales: Mapping[str, list[float]],
    batch: ListBatch,
    loss: Any,
    computed: Tensor | None,
    device: torch.device,
    share: Share,
) -> dict[str, Tensor]:
    """The inputs of a loss that standardises: the deviation of all scores, and, in a mixture, the teacher's scores of
    this batch brought to the mean and deviation of all. `computed`: the scores of a teacher, if there is one, for the
    lists of the share."""
    if not standardizes_teacher(loss):
        return {}
    mean, deviation = scales[POOLED]
    own = scales.get(batch.source, scales[POOLED])
    inputs = {"teacher_deviation": torch.tensor(deviation, device=device)}
    if own != scales[POOLED]:
        scores = part_of_lists(batch.teacher_scores, share) if computed is None else computed
        inputs["teacher_scores"] = (scores.to(device) - own[0]) / own[1] * deviation + mean
    return inputs


def _finite_scores(batch: ListBatch, teacher: AuxiliaryModel | None) -> Tensor:
    """The scores [any] float64 of all documents that the teacher has scored."""
    scores = batch.teacher_scores
    if teacher is not None:
        share = Sharing().of(batch)
        scores = share.gather(teacher.forward(batch, share).list_scores()).cpu()
    return scores[batch.mask & scores.isfinite()].double()


def _mean_and_deviation(name: str, scores: list[Tensor]) -> list[float]:
    values = torch.cat(scores) if scores else torch.zeros(0)
    deviation = values.std(correction=0).item() if len(values) else 0.0
    if not deviation > 0:
        of = f" of data {name}" if name else ""
        raise ValueError(
            f"loss.standardize=true: the teacher's scores{of} are all equal in the first {len(values):,} documents, so "
            "they have no scale: set loss.standardize=false, or choose another teacher"
        )
    return [values.mean().item(), deviation]
