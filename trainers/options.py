"""The options of every trainer: one frozen dataclass, checked before anything is loaded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from engines.memory.kept_chunks import AUTO
from engines.optimizers import OptimizerOptions
from engines.schedules import Schedule

if TYPE_CHECKING:
    from trainers.parts import TrainerParts
    from trainers.trainer import Trainer

ON_NONFINITE = ("stop", "skip", "rollback")
REFERENCES = ("frozen", "precomputed")
NEGATIVES = ("global", "node", "rank")
# Options that do not change the result: they may differ when a run is resumed.
RESUME_SAFE_OPTIONS = (
    "log_every",
    "save_every",
    "keep_checkpoints",
    "async_save",
    "on_nonfinite",
    "max_nonfinite",
    "kept_chunks",
    "workers",
    "cache_tokens",
)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(ABC):
    """Options shared by all trainers. `batch_size` counts queries per *global* step, for any number of ranks.

    `max_epochs`: passes over the training queries (in a mixture: as many batches as one pass over each of its data sets
    has). Training ends after `max_steps` updates or `max_epochs`, whichever is first; one of them may be None.
    `early_stopping_patience`: evaluations on dev in a row that are not better than the best one, after which training
    ends; None: it does not end before its last step. The learning rate follows the whole training in any case.
    `merge_repeats`: equal rows of a step (a text of several lists, or an equal pair) run once, with one dropout mask.
    `kept_chunks`: chunks of a rank that keep their activations for the backward. "auto": as many as fit into the memory
    that is free in the second step.
    `negatives`: which lists give a query its in-batch negatives: all of the step ("global"), those of the same node
    ("node") or rank ("rank"; every W-th list of the step on W ranks). Fewer negatives, and less to send between nodes.
    `reference`: how a loss gets the scores of the model that training started from. "precomputed" scores the whole run
    before the first step, each pair once, and holds no copy. "frozen" scores every step with a frozen copy (under LoRA:
    with the model without its adapters). It needs no time at the start, but scores a pair each time it occurs.
    `on_nonfinite`: what happens to a batch without a finite loss or gradient. "stop" ends the run. "skip" leaves the
    batch out as if it were not in the data. "rollback" goes back to the newest checkpoint and then leaves it out.
    `refresh_every`: steps between two refreshes of the candidates of training lists by the model itself; 0: none. An
    embedding model searches `refresh_documents` sampled documents of the corpus (None: all). A reranker scores the
    first `refresh_depth` candidates of the first stage again. The `refresh_depth` best documents go before the
    candidates of the first stage. `refresh_queries`: the number of queries, the next ones of the epoch (None: all).
    """

    runs_without_dropout: ClassVar[bool] = False  # whatever the loss

    max_steps: int | None = 300
    max_epochs: float | None = None
    batch_size: int = 4
    list_size: int = 8
    token_budget: int = 1024
    kept_chunks: int | Literal["auto"] = 16
    merge_repeats: bool = True
    negatives: str = "global"
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    schedule: str = "linear"
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    log_every: int = 1
    eval_every: int = 100
    early_stopping_patience: int | None = None
    save_every: int = 50
    keep_checkpoints: int = 2
    async_save: bool = False
    workers: int = 1
    cache_tokens: bool = True
    reference: str = "precomputed"
    on_nonfinite: str = "stop"
    max_nonfinite: int = 10
    refresh_every: int = 0
    refresh_depth: int = 100
    refresh_documents: int | None = None
    refresh_queries: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "list_size",
            "token_budget",
            "log_every",
            "eval_every",
            "save_every",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("early_stopping_patience", "refresh_depth", "refresh_documents", "refresh_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(
                    f"trainer.{name} must be at least 1{' or null' * (name != 'refresh_depth')}, got {value}"
                )
        for name in ("workers", "max_nonfinite", "refresh_every", "learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"trainer.{name} must be at least 0 and finite, got {getattr(self, name)}")
        kept = self.kept_chunks
        if kept != AUTO if isinstance(kept, str) else kept < 0:
            raise ValueError(f"trainer.kept_chunks must be a number of at least 0, or {AUTO}, got {kept}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"trainer.max_grad_norm must be positive (.inf: no clipping), got {self.max_grad_norm}")
        if self.reference not in REFERENCES:
            raise ValueError(f"trainer.reference must be one of {', '.join(REFERENCES)}, got {self.reference!r}")
        if self.negatives not in NEGATIVES:
            raise ValueError(f"trainer.negatives must be one of {', '.join(NEGATIVES)}, got {self.negatives!r}")
        if self.on_nonfinite not in ON_NONFINITE:
            raise ValueError(
                f"trainer.on_nonfinite must be one of {', '.join(ON_NONFINITE)}, got {self.on_nonfinite!r}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"trainer.betas must be two numbers in [0, 1), got {self.betas}")
        self.optimizer_options()  # checks the optimizer's name
        self._check_length()
        self.make_schedule(self.max_steps or 1)  # checks the schedule's name

    def optimizer_options(self) -> OptimizerOptions:
        return OptimizerOptions(
            name=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            betas=(self.betas[0], self.betas[1]),
        )

    def make_schedule(self, num_steps: int) -> Schedule:
        return Schedule(self.schedule, num_steps, self.warmup_ratio)

    @property
    def updates_per_batch(self) -> int:
        return 1

    def num_steps(self, batches_per_epoch: int) -> int:
        """The updates of the whole training, on data with that many batches per epoch. Raises ValueError if
        `early_stopping_patience` could then not end it earlier."""
        limits = [] if self.max_steps is None else [self.max_steps]
        if self.max_epochs is not None:
            batches = math.ceil(round(self.max_epochs * batches_per_epoch, 6))  # 0.1 * 30 is a little above 3
            limits.append(batches * self.updates_per_batch)
        steps = min(limits)
        evaluations = math.ceil(steps / self.eval_every)
        if self.early_stopping_patience is not None and self.early_stopping_patience >= evaluations:
            raise ValueError(
                f"trainer.early_stopping_patience={self.early_stopping_patience} never ends training early: it has "
                f"{evaluations} evaluation(s) on dev in {steps} steps: "
                f"{'lower it below that, or ' if evaluations > 1 else ''}lower trainer.eval_every ({self.eval_every})"
            )
        return steps

    def describe_length(self, num_steps: int, updates_per_epoch: int) -> str:
        """One line about a training of `max_epochs`: how many updates they are, and what ends it."""
        line = f"{num_steps} steps, {num_steps / updates_per_epoch:.3g} epochs of {updates_per_epoch} steps"
        if num_steps == self.max_steps and num_steps < (self.max_epochs or 0) * updates_per_epoch:
            return f"{line}: trainer.max_steps={self.max_steps} ends before trainer.max_epochs={self.max_epochs:g}"
        return line

    def _check_length(self) -> None:
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("trainer.max_steps=null: set it, or trainer.max_epochs")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"trainer.max_steps must be at least 1, got {self.max_steps}")
        if self.max_epochs is None:
            self.num_steps(1)  # checks the patience
        elif not 0 < self.max_epochs < math.inf:
            raise ValueError(f"trainer.max_epochs must be above 0 and finite, or null, got {self.max_epochs}")

    @abstractmethod
    def check(self, loss: Any) -> None:
        """Raise ValueError if this trainer cannot optimise `loss`."""

    @abstractmethod
    def build(self, parts: TrainerParts) -> Trainer:
        """Build the trainer from these options and the parts."""
