"""What a run notes of the test split: metrics as lines of metrics.jsonl and in the logger, scores as TREC run files."""

from __future__ import annotations

from data.formats.trec import write_trec_run
from engines.distributed.process_group import is_main
from evaluation.metrics import Metrics, Run
from runs.directory import RunDirectory
from runs.loggers.logger import Logger


def record(run: RunDirectory, logger: Logger, step: int, name: str, metrics: Metrics) -> None:
    """Write test metrics as a line of metrics.jsonl and hand them to the logger."""
    run.append_metrics({"step": step, "split": "test", "name": name, **metrics.mean})
    logger.log({f"test/{metric}": value for metric, value in metrics.mean.items()}, step)


def store_run(run: RunDirectory, name: str, scores: Run) -> None:
    """Write test scores as a TREC run file."""
    if is_main():
        (run.path / "runs").mkdir(exist_ok=True)
        write_trec_run(run.path / "runs" / f"{name}.run", scores, tag=name)
