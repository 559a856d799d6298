"""The settings of a run: the roots of `conf/train.yaml` (here) and of `conf/reason.yaml` (recipes/reasoning_run.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from data.sampling.list_options import ListOptions


def check_timeout(timeout_s: float) -> None:
    """Raise ValueError for a number of seconds that is too short, or endless."""
    if not 10 <= timeout_s < math.inf:
        raise ValueError(f"timeout_s must be at least 10 seconds and finite, got {timeout_s}")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of a run: what it optimises, for how long, on which training lists. All else is the run's."""

    trainer: Any
    loss: Any
    data: Any = None  # what it trains on; None: the run's data, whose dev and test measure every stage
    lists: ListOptions | None = None  # how its training lists are made; None: as its data say


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the settings of every run hold, whichever trainer it has. The groups are whatever dataclass their own
    `_target_` names."""

    run_name: str | None = None  # compose() fills in the name of the experiment or of the configuration
    seed: int = 42
    resume: str = "auto"  # "auto", "none" or the path of a checkpoint
    output_dir: str = "outputs"
    timeout_s: float = 1800.0  # after which a silent rank, or a collective that waits, ends the run
    model: Any
    data: Any
    trainer: Any
    eval: Any
    logger: Any

    def __post_init__(self) -> None:
        check_timeout(self.timeout_s)


@dataclass(frozen=True, kw_only=True)
class RunConfig(RunSettings):
    """A run of launch/train.py. It has a loss and a trainer of its own, or `stages`: names in `stage`, in the order in
    which they are trained; then `loss` and `trainer` are None."""

    loss: Any
    engine: Any
    teacher: Any = None
    guide: Any = None
    adapter_only: bool = False  # export the LoRA adapter alone instead of merging it
    stages: list[str] = field(default_factory=list)
    stage: dict[str, StageConfig] = field(default_factory=dict)
    push_to_hub: str | None = None  # owner/name on the hub
