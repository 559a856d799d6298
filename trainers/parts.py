"""What a trainer is built from, besides its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from data.sampling.loader import ListLoader
from engines.protocol import EngineConfig
from evaluation.evaluator import EvaluationResult, Evaluator
from trainers.record import Logger, RunRecord


@dataclass(frozen=True, kw_only=True)
class TrainerParts:
    """The parts that `TrainerConfig.build` puts together."""

    model: nn.Module  # with the tokenizer that makes its rows, `model.tokenizer`
    engine: EngineConfig
    loader: ListLoader
    loss: Any
    evaluator: Evaluator | None  # on dev
    run: RunRecord
    logger: Logger
    seed: int
    auxiliary_models: Mapping[str, nn.Module] = field(default_factory=dict)  # "teacher", "guide"
    start_result: EvaluationResult | None = None  # what `evaluator` says of `model` as it is, if that is known
