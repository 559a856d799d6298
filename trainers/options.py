"""The options of every trainer: one frozen dataclass, checked before anything is loaded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from engines.optimizers import OptimizerOptions
from engines.schedules import Schedule

if TYPE_CHECKING:
    from trainers.parts import TrainerParts
    from trainers.trainer import Trainer

ON_NONFINITE = ("stop", "skip", "rollback")
REFERENCES = ("frozen", "precomputed")
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
)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(ABC):
    """Options shared by all trainers. `batch_size` counts queries per *global* step, for any number of ranks.

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

    max_steps: int = 300
    batch_size: int = 4
    list_size: int = 8
    token_budget: int = 1024
    kept_chunks: int = 4
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    schedule: str = "linear"
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    log_every: int = 1
    eval_every: int = 100
    save_every: int = 50
    keep_checkpoints: int = 2
    async_save: bool = False
    workers: int = 1
    reference: str = "precomputed"
    on_nonfinite: str = "stop"
    max_nonfinite: int = 10
    refresh_every: int = 0
    refresh_depth: int = 100
    refresh_documents: int | None = None
    refresh_queries: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
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
        for name in ("refresh_depth", "refresh_documents", "refresh_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(
                    f"trainer.{name} must be at least 1{' or null' * (name != 'refresh_depth')}, got {value}"
                )
        for name in ("kept_chunks", "workers", "max_nonfinite", "refresh_every", "learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"trainer.{name} must be at least 0 and finite, got {getattr(self, name)}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"trainer.max_grad_norm must be positive (.inf: no clipping), got {self.max_grad_norm}")
        if self.reference not in REFERENCES:
            raise ValueError(f"trainer.reference must be one of {', '.join(REFERENCES)}, got {self.reference!r}")
        if self.on_nonfinite not in ON_NONFINITE:
            raise ValueError(
                f"trainer.on_nonfinite must be one of {', '.join(ON_NONFINITE)}, got {self.on_nonfinite!r}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"trainer.betas must be two numbers in [0, 1), got {self.betas}")
        self.optimizer_options()  # checks the optimizer's name
        self.make_schedule()  # checks the schedule's name

    def optimizer_options(self) -> OptimizerOptions:
        return OptimizerOptions(
            name=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            betas=(self.betas[0], self.betas[1]),
        )

    def make_schedule(self) -> Schedule:
        return Schedule(self.schedule, self.max_steps, self.warmup_ratio)

    @abstractmethod
    def check(self, loss: Any) -> None:
        """Raise ValueError if this trainer cannot optimise `loss`."""

    @abstractmethod
    def build(self, parts: TrainerParts) -> Trainer:
        """Build the trainer from these options and the parts."""
