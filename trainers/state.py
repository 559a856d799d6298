"""The state of training, which converts itself to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from data.truncation import Truncation
from engines.protocol import Engine


def load_engine(engine: Engine, folder: Path) -> None:
    """Load the weights, optimizer and schedule of a checkpoint. Raises ValueError, which names the remedy, if a file is
    broken."""
    try:
        engine.load(folder)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{folder} cannot be read ({reason}): remove that folder, and the same command resumes from the "
            "checkpoint before it"
        ) from error


def _no_totals() -> dict[str, float]:
    return {"seconds": 0.0, "rows": 0, "tokens": 0}


@dataclass
class TrainState:
    """The state in a checkpoint beside weights, optimizer and schedule. The field names are the keys of its JSON
    file."""

    step: int = 0  # optimizer updates so far
    best_metric: float | None = None  # on dev
    best_step: int | None = None
    evaluations_since_best: int = 0  # in a row, for early stopping
    totals: dict[str, float] = field(default_factory=_no_totals)  # summed over all starts of the run
    truncation: dict[str, int] = field(default_factory=dict)  # the counts of a Truncation, summed in the same way
    source_losses: dict[str, list[float]] = field(default_factory=dict)  # see `add_loss`
    pending_evaluation: bool = False  # the evaluation of this step was interrupted: a resumed run evaluates first
    skipped_batches: list[int] = field(default_factory=list)  # numbers of batches that are left out
    refreshed_step: int | None = None  # the step of the refreshed candidates in use; None: those of the first stage
    teacher_scales: dict[str, list[float]] = field(default_factory=dict)  # see trainers/teacher_scale.py
    score_scale: list[float] | None = None  # what the model's fresh score head was given (`scale_scores`)
    family: dict[str, Any] = field(default_factory=dict)  # the state of a subclass, see `Trainer.family_state`
    engine: str | None = None  # this and the following: facts about the process that saved the state
    world_size: int | None = None
    ranks_per_node: int | None = None
    wandb_run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file. It is a copy, so later steps do not change it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainState:
        """The inverse of `to_dict`. A missing key gets its default. Raises ValueError if a key is unknown."""
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
        """Add the costs of a step."""
        added = {"seconds": seconds, "rows": rows, "tokens": tokens}
        self.totals = {name: value + added[name] for name, value in self.totals.items()}

    def add_truncation(self, count: Truncation | None) -> None:
        """Add the counts of a step; None: its tokenizer does not count."""
        if count is not None:
            self.truncation = asdict(Truncation(**self.truncation) + count)

    def add_loss(self, source: str, loss: float) -> None:
        """Add the loss of a step of this data set to their sum and number since the last line of metrics.jsonl."""
        total, count = self.source_losses.get(source, (0.0, 0.0))
        self.source_losses = {**self.source_losses, source: [total + loss, count + 1]}

    def take_mean_losses(self) -> dict[str, float]:
        """The mean loss of each data set since the last call, by the name of the metric."""
        means = {f"loss/{source}": total / count for source, (total, count) in sorted(self.source_losses.items())}
        self.source_losses = {}
        return means

    def skip_batch(self, number: int) -> None:
        """Leave the batch of this number out from now on."""
        self.skipped_batches = sorted({*self.skipped_batches, number})

    def add_evaluation(self, metric: float) -> bool:
        """Note the metric of this step on dev. Returns whether it is the best so far."""
        if self.best_metric is None or metric > self.best_metric:
            self.best_metric, self.best_step, self.evaluations_since_best = metric, self.step, 0
            return True
        self.evaluations_since_best += 1
        return False

    def forget_best(self) -> None:
        """Forget the best metric, so that the next evaluation counts as the best."""
        self.best_metric = self.best_step = None

    def for_changed_settings(self, *, same_batches: bool) -> TrainState:
        """The state that a run with other settings starts from. The run evaluates its start, since dev may be
        different, and measures the teacher, which may be another. Skipped batches stay skipped, and refreshed
        candidates in use, only if the numbers of batches mean the same lists."""
        skipped = self.skipped_batches if same_batches else []
        refreshed = self.refreshed_step if same_batches else None
        evaluation: dict[str, Any] = {"best_metric": None, "best_step": None, "pending_evaluation": True}
        evaluation["evaluations_since_best"] = 0
        return replace(self, **evaluation, teacher_scales={}, skipped_batches=skipped, refreshed_step=refreshed)
