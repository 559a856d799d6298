"""Run a trainer in this process, or on one of several ranks, and hand back what it logged and learned."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from torch import Tensor

TIMES = {"seconds", "rows_per_s", "tokens_per_s"}
TRAFFIC = "traffic/"  # begins the names of what several ranks exchange


def make_trainer(overrides: list[str]) -> Any:
    from launch.cli.compose import load
    from recipes.build import make_trainer
    from recipes.checks.compatibility import check_parts
    from runs.directory import RunDirectory
    from runs.loggers.logger import NoLogger
    from runs.settings_tree import as_tree

    settings = load(overrides)
    check_parts(settings)
    data, model = settings.data.build(), settings.model.build(settings.seed)
    return make_trainer(settings, data, RunDirectory.open(as_tree(settings)), model, sets={}, logger=NoLogger())


def run_to_the_end(overrides: list[str]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Fit; the lines of metrics.jsonl without times and traffic, and the final weights."""
    trainer = make_trainer(overrides)
    trainer.fit()
    with trainer.engine.full_weights():
        weights = {name: value.detach().clone() for name, value in trainer.engine.model.state_dict().items()}
    return metrics_of(trainer), weights


def run_until(runs: list[tuple[list[str], int]]) -> None:
    """Each run until the line of its step is written, as if it were killed there."""
    for overrides, step in runs:
        trainer = make_trainer(overrides)
        log = trainer.log

        def log_then_stop(statistics: dict[str, Any], trainer: Any = trainer, log: Any = log, step: int = step) -> None:
            log(statistics)
            if trainer.state.step == step:
                raise KeyboardInterrupt

        trainer.log = log_then_stop
        with suppress(KeyboardInterrupt):
            trainer.fit()
        assert trainer.state.step == step


def go_on(options: list[str], stop: int) -> tuple[Any, Any, Any]:
    """Three trainers: of a whole run, of one that ended after step `stop`, and of one that has resumed there, and
    is yet to fit. Their schedule must not depend on trainer.max_steps."""
    whole = make_trainer([*options, "run_name=whole"])
    whole.fit()
    begun = make_trainer([*options, "run_name=interrupted"])
    begun.max_steps = stop
    begun.fit()
    going_on = make_trainer([*options, "run_name=interrupted"])
    going_on.resume()
    assert going_on.state.step == stop
    return whole, begun, going_on


def metrics_of(trainer: Any) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in trainer.run.metrics_file.read_text().splitlines()]
    return [without_times(line) for line in lines]


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in TIMES and not name.startswith(TRAFFIC)}


def run_several(runs: list[list[str]]) -> list[tuple[list[dict[str, Any]], dict[str, Tensor]]]:
    return [run_to_the_end(overrides) for overrides in runs]
