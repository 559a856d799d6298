"""The results that every run records: metrics as lines of metrics.jsonl, scores as TREC run files, summary.json."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.collection import Collection
from data.formats.trec import write_trec_run
from data.sampling.mixture import Mixture
from data.truncation import Truncation, cut_line, limits_of, summary_of
from engines.distributed import process_group
from engines.distributed.collectives import gather_objects
from engines.memory.allocator import peak_memory_bytes
from evaluation.evaluator import DevEvaluator, EvaluationResult, Evaluator
from evaluation.metrics import Metrics, Run
from runs.directory import RunDirectory
from runs.loggers.logger import Logger

RANKERS = ("first_stage", "before", "after", "fused")  # keys of summary.json; "before": the starting model
Evaluate = Callable[[DevEvaluator], EvaluationResult]  # evaluates the model in training; all ranks call it together


@dataclass(frozen=True)
class TrainingOutcome:
    """The facts about a training that has ended, which every trainer gives."""

    engine: str
    steps: int
    seconds: float
    rows: float | None = None  # None: not counted
    tokens: float | None = None
    best_dev: float | None = None  # None: the last model is exported
    best_step: int | None = None
    epochs: float | None = None  # None: not counted
    max_steps: int | None = None  # of the whole training; None: `steps`
    stopped_early: bool = False
    truncation: Truncation | None = None  # of the training lists; None: not counted


def record(run: RunDirectory, logger: Logger, step: int, name: str, metrics: Metrics) -> None:
    """Write test metrics as a line of metrics.jsonl and log them. `before` and `after` are one curve of the logger."""
    run.append_metrics({"step": step, "split": "test", "name": name, **metrics.mean})
    prefix = "test" if name in ("before", "after") else f"test/{name}"
    logger.log({f"{prefix}/{metric}": value for metric, value in metrics.mean.items()}, step)


def store_run(run: RunDirectory, name: str, scores: Run) -> None:
    """Write test scores as a TREC run file."""
    if process_group.is_main():
        (run.path / "runs").mkdir(exist_ok=True)
        write_trec_run(run.path / "runs" / f"{name}.run", scores, tag=name)


def warn_if_cut(evaluator: Evaluator, name: str) -> None:
    """Print a warning, before training, if many texts of the test split of that name are cut. Call it on all ranks."""
    count = evaluator.truncation()
    if count is not None and count.is_large and process_group.is_main():
        print(cut_line({name: count}, limits_of(evaluator.tokenizer)), file=sys.stderr, flush=True)


def source_of_first_stage(test: Evaluator) -> dict[str, str]:
    """The entry of a summary that says where the first stage's scores come from, if the data bring them."""
    return {"first_stage_source": test.first_stage_source} if test.first_stage_source else {}


def searched_entry(test: Evaluator) -> dict[str, Any]:
    """The entries of a summary that say which documents were searched; nothing if candidates were ranked. Only rank 0,
    which writes it, hashes the ids of a whole corpus."""
    searched = test.searched if process_group.is_main() else None
    return ({} if searched is None else {"searched": searched}) | partial_entry(test.partial)


def partial_entry(partial: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entries of a summary that say that only a part of the corpus was searched; nothing if all of it was."""
    return {} if partial is None else {"partial": dict(partial), "method": "retrieved from a part of the corpus"}


def length_of(outcome: TrainingOutcome) -> dict[str, Any]:
    """How long a training was: passes over its data, the updates that it was meant to have, and whether dev ended it
    before."""
    return {
        "epochs": outcome.epochs,
        "max_steps": outcome.steps if outcome.max_steps is None else outcome.max_steps,
        "stopped_early": outcome.stopped_early,
    }


def summarise(
    data: Collection | Mixture,
    test: Evaluator,
    results: Mapping[str, Metrics],
    outcome: TrainingOutcome,
    stages: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of summary.json that all runs have. `data` is what was trained on; `results` are those on test, by
    ranker. Call it on all ranks."""
    metric = test.config.metric
    seconds = max(outcome.seconds, 1e-9)
    return {
        "data": data.name,
        "data_hash": data.fingerprint,
        "whole_data_hash": data.whole_fingerprint,  # before train_share
        "metric": metric,
        **{name: results[name].mean[metric] if name in results else None for name in RANKERS},
        "best_dev": outcome.best_dev,
        "best_step": outcome.best_step,
        "stages": list(stages),
        "metrics": {name: result.mean for name, result in results.items()},
        **source_of_first_stage(test),
        "recall_ceiling": test.candidate_recall,
        "ceiling": test.oracle.mean,
        "test_queries": len(test.queries),
        **searched_entry(test),
        **({} if test.num_pairs is None else {"test_pairs": test.num_pairs}),
        "truncated": summary_of({"train": outcome.truncation, "test": test.truncation()}, limits_of(test.tokenizer)),
        "steps": outcome.steps,
        **length_of(outcome),
        "seconds": outcome.seconds,
        "rows_per_s": None if outcome.rows is None else outcome.rows / seconds,
        "tokens_per_s": None if outcome.tokens is None else outcome.tokens / seconds,
        "peak_memory_bytes": max(gather_objects(peak_memory_bytes())),
        "engine": outcome.engine,
        "world_size": process_group.world_size(),
    }
