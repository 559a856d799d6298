"""The settings of a run: the root of `conf/train.yaml`. That of `conf/reason.yaml` is in recipes/reasoning_run.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from data.sampling.list_options import ListOptions


def check_timeout(timeout_s: float) -> None:
    """Raise ValueError if the timeout is too short or infinite."""
    if not 10 <= timeout_s < math.inf:
        raise ValueError(f"timeout_s must be at least 10 seconds and finite, got {timeout_s}")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of a run: its loss, trainer and training lists. All other settings are the run's."""

    trainer: Any
    loss: Any = None  # None: each data set of a mixture has its own
    data: Any = None  # training data; None: the run's data. Dev and test are always the run's
    lists: ListOptions | None = None  # how its training lists are made; None: the options of its data


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings that all runs have, with any trainer. The class of each group is the one that its `_target_` names."""

    run_name: str | None = None  # compose() fills in the name of the experiment or of the configuration
    seed: int = 42
    resume: str = "auto"  # "auto", "none" or the path of a checkpoint
    output_dir: str = "outputs"
    allow_lost_prompts: bool = False  # train with prompts that the export cannot hold; the model card names them
    timeout_s: float = 1800.0  # seconds without progress of a rank or collective after which the run is ended
    model: Any
    data: Any
    trainer: Any
    eval: Any
    logger: Any

    def __post_init__(self) -> None:
        check_timeout(self.timeout_s)
        if depths := getattr(self.eval, "depths", None):
            raise ValueError(f"eval.depths={depths} are compared by launch/evaluate.py: leave them out of a training")


@dataclass(frozen=True, kw_only=True)
class RunConfig(RunSettings):
    """The settings of launch/train.py. A run has either `loss` and `trainer`, or `stages`: names of nodes in `stage`,
    in the order in which they are trained; then `loss` and `trainer` are None."""

    loss: Any = None  # None: stages, or each data set of a mixture, have their own
    engine: Any
    teacher: Any = None
    negatives: Any = None  # recipes.negatives.mined_training.MinedNegatives; None: the candidates of the data
    guide: Any = None
    eval_of_degrees: Any = None  # instead of `eval` for pairs labelled with degrees of similarity; None: refused
    dev_suite: Any = None  # data sets by whose mean the best checkpoint is chosen; None: by dev of the run's data
    dev_suite_uses_test: bool = False  # its sets without dev are measured on test
    test_suite: Any = None  # data sets whose test is measured too, beside that of the run's data; None: none
    train_share: float = 1.0  # of the training queries, keyed by seed; 1: all
    adapter_only: bool = False  # export the LoRA adapter alone instead of merging it
    stages: list[str] = field(default_factory=list)
    stage: dict[str, StageConfig] = field(default_factory=dict)
    push_to_hub: str | None = None  # owner/name on the hub

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share={self.train_share} must be above 0 and at most 1")
