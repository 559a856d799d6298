"""The model of cost beside what was measured: fitted on few ranks, it predicts more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.scale.cases import CASES, WARM_UP, settings_of, write_texts
from recipes.cost_plan.step_time import Rates, fit_rates, step_time
from recipes.cost_plan.step_work import StepWork, step_work
from recipes.cost_plan.workload import Workload, build_workload

Record = dict[str, Any]


class Predictions:
    """The work of each measured run, counted on paper, and its time at rates that are fitted to some of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._workload = cache(self._build)

    def _build(self, case: str) -> Workload:
        texts = self.folder / "texts.jsonl"
        if not texts.is_file():
            write_texts(texts)
        settings = settings_of(CASES[case], "torch", self.folder)
        workload = build_workload(settings, settings.data.build(), autocast=None)
        return replace(workload, batches=workload.batches[WARM_UP:])

    def work(self, record: Record) -> StepWork:
        """The work of a rank in the run of a record."""
        workload = self._workload(record["case"])
        engine = settings_of(CASES[record["case"]], record["engine"], self.folder).engine
        ranks = record["ranks"]
        options: Any = {"kept_chunks": workload.settings.trainer.kept_chunks, "device": "cpu", "ranks_per_node": ranks}
        return step_work(workload, engine, ranks, **options)


def core_seconds(record: Record, clock: str) -> float:
    """The seconds of a step, as if each rank had a core: of the clock, or of the computing time."""
    if clock == "cpu":
        return record["cpu_s"]
    return record["wall_s"] * min(record["cores"] / record["ranks"], 1.0)


def table(records: Sequence[Record], predictions: Predictions, *, clock: str, fitted: Sequence[int]) -> Iterator[str]:
    """Lines of a table: the ranks that were not fitted, predicted and measured."""
    works = [predictions.work(record) for record in records]
    seconds = [core_seconds(record, clock) for record in records]
    models = [record["case"].split(",")[0] for record in records]
    used = [index for index, record in enumerate(records) if record["ranks"] in fitted]
    rates = fit_rates(*([values[index] for index in used] for values in (works, seconds, models)))
    for model, of_model in rates.items():
        yield f"{model}: {describe(of_model)}"
    yield "| run | engine | ranks | seconds, predicted | measured | | MB received, predicted | measured | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for record, work, measured, model in zip(records, works, seconds, models, strict=True):
        expected = step_time(work, rates[model], ranks_per_node=record["ranks"]).total
        moved = record["bytes_per_rank"] if record["ranks"] > 1 else 0.0
        exchange = f"{work.received_bytes / 1e6:.1f} | {moved / 1e6:.1f} | {_difference(work.received_bytes, moved)}"
        fit = "fitted" if record["ranks"] in fitted else "predicted"
        name = f"{record['case']} ({fit})"
        yield (
            f"| {name} | {record['engine']} | {record['ranks']} | {expected:.3f} | {measured:.3f} | "
            f"{_difference(expected, measured)} | {exchange} |"
        )


def parts(records: Sequence[Record], predictions: Predictions) -> Iterator[str]:
    """Lines of a table: what a rank receives, part by part, predicted and counted in the statistics of steps."""
    yield "| run | engine | ranks | part | KB received, predicted | counted | |"
    yield "|---|---|---|---|---|---|---|"
    for record in records:
        expected = predictions.work(record).received
        for name, counted in record["counted"].items():
            found = expected.get(name, 0.0)
            yield (
                f"| {record['case']} | {record['engine']} | {record['ranks']} | {name} | {found / 1e3:,.1f} | "
                f"{counted / 1e3:,.1f} | {_difference(found, counted)} |"
            )


def describe(rates: Rates) -> str:
    return (
        f"fitted: {rates.flops / 1e9:.1f} GFLOP/s; "
        f"update {rates.update_bytes / 1e9:.2f} GB/s; received {rates.bytes_in_node / 1e9:.2f} GB/s; "
        f"{rates.row_s * 1e3:.2f} ms a row, {rates.step_s:.3f} s a step"
    )


def _difference(expected: float, measured: float) -> str:
    return f"{expected / measured - 1:+.1%}" if measured else ""
