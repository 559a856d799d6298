"""Where training stands: the one state of a trainer, which saves and loads itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any


def _no_totals() -> dict[str, float]:
    return {"seconds": 0.0, "rows": 0, "tokens": 0}


@dataclass
class TrainState:
    """What a checkpoint holds beside weights, optimizer and schedule. The field names are the keys of its JSON file."""

    step: int = 0  # optimizer updates so far
    best_metric: float | None = None  # on dev
    best_step: int | None = None
    totals: dict[str, float] = field(default_factory=_no_totals)  # of all processes of the run
    pending_evaluation: bool = False  # the evaluation of this step was interrupted: a resumed run makes it first
    skipped_batches: list[int] = field(default_factory=list)  # numbers of batches that are left out
    family: dict[str, Any] = field(default_factory=dict)  # of the trainer's family, see `Trainer.family_state`
    engine: str | None = None  # this and the following: of the process that saved the state
    world_size: int | None = None
    wandb_run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file: a copy, which later steps do not change."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainState:
        """The inverse of `to_dict`; a missing key has its default. Raises ValueError if a key is unknown."""
        known = {each.name for each in fields(cls)}
        if unknown := sorted(content.keys() - known):
            raise ValueError(
                f"the checkpoint's state has unknown keys ({', '.join(unknown)}): another version wrote it; start from "
                "scratch with resume=none"
            )
        return cls(**content)

    @property
    def last_evaluated_step(self) -> int:
        """The step up to which all evaluations are done."""
        return self.step - self.pending_evaluation

    def add_totals(self, *, seconds: float, rows: int, tokens: int) -> None:
        """Count a step."""
        added = {"seconds": seconds, "rows": rows, "tokens": tokens}
        self.totals = {name: value + added[name] for name, value in self.totals.items()}

    def skip_batch(self, number: int) -> None:
        """Leave a batch out from now on."""
        self.skipped_batches = sorted({*self.skipped_batches, number})

    def forget_best(self) -> None:
        """Let the next evaluation set the mark."""
        self.best_metric = self.best_step = None

    def under_other_settings(self, *, same_batches: bool) -> TrainState:
        """The state that a run with other settings starts from. It measures its start, since dev may be another.
        Skipped batches stay so only if their numbers stand for the same lists."""
        skipped = self.skipped_batches if same_batches else []
        return replace(self, best_metric=None, best_step=None, pending_evaluation=True, skipped_batches=skipped)
