"""The model of cost beside what was measured: fitted on few ranks, it predicts more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.scale.cases import CASES, WARM_UP, settings_of, write_texts
from recipes.cost_plan.step_time import Rates, fit_rates, seconds_on_shared_cores, step_time
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

    def works(self, record: Record) -> list[StepWork]:
        """The work of each rank in the run of a record; none has more than the first."""
        workload = self._workload(record["case"])
        engine = settings_of(CASES[record["case"]], record["engine"], self.folder).engine
        ranks = record["ranks"]
        options: Any = {"kept_chunks": workload.settings.trainer.kept_chunks, "device": "cpu", "ranks_per_node": ranks}
        return [step_work(workload, engine, ranks, rank=rank, **options) for rank in range(ranks)]


def table(records: Sequence[Record], predictions: Predictions, *, fitted: Sequence[int]) -> Iterator[str]:
    """Lines of a table: the seconds of a step, predicted and measured, fitted to those that the slowest rank computes
    on so many ranks."""
    works = [predictions.works(record) for record in records]
    models = [record["case"].split(",")[0] for record in records]
    used = [index for index, record in enumerate(records) if record["ranks"] in fitted]
    first, seconds = [of_ranks[0] for of_ranks in works], [record["cpu_s"] for record in records]
    rates = fit_rates(*([values[index] for index in used] for values in (first, seconds, models)))
    for model, of_model in rates.items():
        yield f"{model}: {describe(of_model)}"
    yield "| run | engine | ranks | seconds, predicted | measured | | MB received, predicted | measured | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for record, of_ranks, model in zip(records, works, models, strict=True):
        ranks, received = record["ranks"], of_ranks[0].received_bytes
        each = [step_time(work, rates[model], ranks_per_node=ranks).total for work in of_ranks]
        expected, measured = seconds_on_shared_cores(each, record["cores"]), record["wall_s"]
        moved = record["bytes_per_rank"] if ranks > 1 else 0.0
        exchange = f"{received / 1e6:.1f} | {moved / 1e6:.1f} | {_difference(received, moved)}"
        name = f"{record['case']} ({'fitted' if ranks in fitted else 'predicted'})"
        yield (
            f"| {name} | {record['engine']} | {ranks} | {expected:.3f} | {measured:.3f} | "
            f"{_difference(expected, measured)} | {exchange} |"
        )


def parts(records: Sequence[Record], predictions: Predictions) -> Iterator[str]:
    """Lines of a table: what a rank receives, part by part, predicted and counted in the statistics of steps."""
    yield "| run | engine | ranks | part | KB received, predicted | counted | |"
    yield "|---|---|---|---|---|---|---|"
    for record in records:
        expected = predictions.works(record)[0].received
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
