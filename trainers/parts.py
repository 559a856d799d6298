"""The parts that a trainer is built from, besides its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from data.sampling.loader import ListLoader
from engines.protocol import EngineConfig
from evaluation.evaluator import DevEvaluator, EvaluationResult
from trainers.record import Logger, RunRecord
from trainers.source_losses import SourceLosses


@dataclass(frozen=True, kw_only=True)
class TrainerParts:
    """The arguments of `TrainerConfig.build`."""

    model: nn.Module  # its attribute `tokenizer` makes its inputs
    engine: EngineConfig
    loader: ListLoader
    losses: SourceLosses
    evaluator: DevEvaluator | None  # on dev
    run: RunRecord
    logger: Logger
    seed: int
    auxiliary_models: Mapping[str, nn.Module] = field(default_factory=dict)  # "teacher", "guide"
    start_result: EvaluationResult | None = None  # the starting model's result on dev, if it is known
