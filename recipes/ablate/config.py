"""The settings of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SEEDS, SEARCH_SEEDS, TRIALS = (1, 2, 3), (1,), 20  # what null stands for


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """The root of conf/ablate.yaml. `grid` and `search` are flat: the key of a setting -> its values, or its range."""

    grid: dict[str, Any] = field(default_factory=dict)
    experiments: dict[str, list[str]] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    trials: int | None = None
    seeds: list[int] | None = None
    baseline: str | None = None
    settings: list[str] = field(default_factory=list)
    jobs: int = 1
    ranks: int = 1
    retries: int = 1
    cluster: Literal["slurm", "local"] | None = None
    submitit: dict[str, Any] = field(default_factory=dict)
    nodes: int = 1
    dry_run: bool = False
    run_name: str | None = None
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        for name in ("jobs", "ranks", "nodes", "trials"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.retries < 0:
            raise ValueError(f"retries must be at least 0, got {self.retries}")
        seeds = self.all_seeds
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds={list(seeds)}: name at least one, each once")
        if min(seeds) < 0:
            raise ValueError(f"seeds={list(seeds)}: a seed is at least 0")
        self._check_kinds()
        self._check_cluster()

    def _check_kinds(self) -> None:
        if self.search and (self.grid or self.experiments):
            raise ValueError("search and grid or experiments are two ablations: leave one of them out")
        if self.trials is not None and not self.search:
            raise ValueError(f"trials={self.trials} is of a search: set 'search.KEY=log(LOW,HIGH)', or leave it out")
        if self.search and self.baseline is not None:
            raise ValueError(f"baseline={self.baseline}: a search has none: leave it out")
        for key, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"grid.{key}={values} is not a list of values: grid.{key}=[A,B]")
        for name, overrides in self.experiments.items():
            if not name.isprintable() or not name.strip():
                raise ValueError(f"experiments: {name!r} is not a name")
            if any("=" not in override for override in overrides):
                raise ValueError(f"experiments.{name}={overrides} is not a list of settings: [KEY=VALUE, ...]")

    def _check_cluster(self) -> None:
        if self.cluster is None:
            for name in ("submitit", "nodes"):
                if getattr(self, name) not in ({}, 1):
                    raise ValueError(f"{name} is of a cluster: set cluster=slurm, or leave it out")
        if self.nodes > 1 and self.cluster != "slurm":
            raise ValueError(f"nodes={self.nodes} needs cluster=slurm, cluster={self.cluster} has one node")

    @property
    def all_seeds(self) -> Sequence[int]:
        if self.seeds is not None:
            return self.seeds
        return SEARCH_SEEDS if self.search else SEEDS

    @property
    def num_trials(self) -> int:
        return TRIALS if self.trials is None else self.trials
