"""The root of a training configuration: what `conf/train.yaml` names as its `_target_`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. The groups are whatever dataclass their own `_target_` names."""

    run_name: str | None = None  # compose() fills in the experiment's name
    seed: int = 42
    resume: str = "auto"  # "auto", "none" or the path of a checkpoint
    output_dir: str = "outputs"
    model: Any
    data: Any
    loss: Any
    trainer: Any
    engine: Any
    eval: Any
    logger: Any
    teacher: Any = None
    guide: Any = None
    adapter_only: bool = False  # export the LoRA adapter alone instead of merging it
    push_to_hub: str | None = None  # owner/name on the hub
