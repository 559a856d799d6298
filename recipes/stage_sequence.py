"""A run with stages: each is trained in a run directory of its own, from the model that the one before has exported."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engines.distributed.collectives import broadcast_object
from engines.distributed.process_group import is_main
from evaluation.evaluator import EvaluationResult, Evaluator
from models.capabilities import RankingModel
from models.export.folder import card_of
from recipes.baseline import baseline_folder, read_dev, reuse_final_scores
from recipes.build import Data, build_trainer, dev_evaluator, test_evaluator
from recipes.compatibility import check_model
from recipes.model_card import model_card
from recipes.run_config import RunConfig
from recipes.stages import Stage
from recipes.train_model import train_model
from runs.directory import RunDirectory
from runs.loggers.logger import Logger, StageLogger
from runs.report.html import write_report
from runs.settings_tree import as_tree
from runs.stage_folders import StageLines, link_checkpoints


def train_stages(
    settings: RunConfig, stages: Sequence[Stage], training: Sequence[Data], collection: Data, run: RunDirectory
) -> tuple[Logger, dict[str, Any]]:
    """Train the stages that are not finished. Returns the logger, which is still open, and the summary."""
    logger = settings.logger.build(run, as_tree(settings))
    sequence = StageSequence(settings, collection, run)
    for stage, data in zip(stages, training, strict=True):
        summary = sequence.train(stage, data, StageLogger(logger, stage.number, stage.first_step))
        free_memory()
        report_stage(stage, len(stages), summary)
    summary = join_summaries(sequence.summaries)
    if is_main():
        source = settings.model.name_or_path
        card = model_card(run.name, summary, start=source, seed=settings.seed)
        gather_results(run.path, sequence.folders, source=source, card=card)
        write_report(run.path, summary)
    run.write_summary(summary)
    return logger, summary


class StageSequence:
    """What stages share and hand on. Dev and test are tokenised once, and the end of a stage is not measured again as
    the start of the next."""

    def __init__(self, settings: RunConfig, collection: Data, run: RunDirectory):
        self.settings, self.collection, self.run = settings, collection, run
        self.finished: list[tuple[Stage, RunDirectory]] = []
        self.evaluators: tuple[Evaluator | None, Evaluator] | None = None

    @property
    def folders(self) -> list[Path]:
        return [directory.path for _, directory in self.finished]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        return [directory.summary for _, directory in self.finished if directory.summary is not None]

    def train(self, stage: Stage, data: Data, logger: Logger) -> dict[str, Any]:
        """Train the next stage, unless it is finished; returns its summary."""
        if self.finished:
            stage = stage.starting_from(self.folders[-1] / "model")
        directory = self._open(stage)
        if not directory.finished:
            model = stage.settings.model.build(self.settings.seed)
            check_model(stage.settings, model)
            dev, test = self._evaluators_for(model)
            trainer = build_trainer(
                stage.settings,
                data,
                directory,
                model,
                evaluator=dev,
                logger=logger,
                start_result=start_from_final_scores(self.folders[-1], directory.path) if self.finished else None,
            )
            train_model(
                trainer,
                test,
                directory,
                collection=self.collection,
                training=data,
                known_baseline=None if self.finished else baseline_folder(self.settings, self.collection, model),
                earlier=self.summaries,
                adapter_only=stage.settings.adapter_only,
            )
        assert directory.summary is not None
        self.finished.append((stage, directory))
        return directory.summary

    def _open(self, stage: Stage) -> RunDirectory:
        """The stage's own directory. The run's metrics.jsonl is made again from those of all stages until here: at
        whatever moment the run was stopped, it joins what they hold. `RunDirectory.open` has compared the settings of
        the whole run; only the place of the model that the stage starts from may differ."""
        directory = RunDirectory.open(as_tree(stage.settings), neutral=["model.name_or_path"] if self.finished else [])
        directory.joined = StageLines(self.run.metrics_file, stage.name, stage.first_step)
        if is_main():
            self.run.metrics_file.unlink(missing_ok=True)
            for past, opened in [*self.finished, (stage, directory)]:
                StageLines(self.run.metrics_file, past.name, past.first_step).copy(opened.metrics_file)
            link_checkpoints(self.run.path, directory.path)
        return directory

    def _evaluators_for(self, model: RankingModel) -> tuple[Evaluator | None, Evaluator]:
        """Dev and test, tokenised for the first model that is trained: the tokenizer of a run stays the same."""
        if self.evaluators is None:
            self.evaluators = (
                dev_evaluator(self.settings, self.collection, model),
                test_evaluator(self.settings, self.collection, model),
            )
        return self.evaluators


def start_from_final_scores(earlier: Path, folder: Path) -> EvaluationResult | None:
    """Give the stage in `folder` what the `earlier` one has ended with: on test, and on dev, which is returned."""
    if not is_main():
        return broadcast_object(None)
    reuse_final_scores(folder / "runs", earlier / "runs")
    return broadcast_object(read_dev(earlier / "runs"))


def report_stage(stage: Stage, count: int, summary: Mapping[str, Any]) -> None:
    """Print one line about a finished stage."""
    if is_main():
        metric, unbeaten = summary["metric"], ", no checkpoint beat its start on dev" * (summary["best_step"] == 0)
        print(
            f"stage {stage.number} of {count}, {stage.name}: test {metric} {summary['before']:.4f} -> "
            f"{summary['after']:.4f}{unbeaten}",
            flush=True,
        )


def free_memory() -> None:
    """Free the engine of a stage before the next one takes its place."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def join_summaries(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """summary.json of the run: from the start of the first stage to the end of the last, and the sum of their costs."""
    first, last = summaries[0], summaries[-1]
    steps = sum(summary["steps"] for summary in summaries)
    seconds = sum(summary["seconds"] for summary in summaries)
    rates = {
        name: sum(summary[name] * summary["seconds"] for summary in summaries) / max(seconds, 1e-9)
        for name in ("rows_per_s", "tokens_per_s")
    }
    return {
        **last,
        **rates,
        "before": first["before"],
        "metrics": {**last["metrics"], "before": first["metrics"]["before"]},
        "best_step": exported_step(summaries),
        "steps": steps,
        "seconds": seconds,
        "peak_memory_bytes": max(summary["peak_memory_bytes"] for summary in summaries),
    }


def exported_step(summaries: Sequence[Mapping[str, Any]]) -> int | None:
    """The step of the run whose weights are exported: a stage whose best is its start has passed on those of the stage
    before. 0: the starting model; None: without a dev split, the last."""
    first_step = sum(summary["steps"] for summary in summaries)
    for summary in reversed(summaries):
        first_step -= summary["steps"]
        if summary["best_step"] is None:
            return None
        if summary["best_step"] > 0:
            return first_step + summary["best_step"]
    return 0


def gather_results(run: Path, stages: Sequence[Path], *, source: str, card: str) -> None:
    """Put the last stage's model, test scores and shown queries into the run's folder, as links where they can be. The
    model card is the run's own: trained from `source`, `card` is its text."""
    for file in ("runs/before.run", "runs/before.json"):
        _link(stages[0] / file, run / file)
    for file in ("runs/after.run", "runs/fused.run", "queries.json"):
        _link(stages[-1] / file, run / file)
    shutil.rmtree(run / "model", ignore_errors=True)
    last, readme = stages[-1] / "model", "README.md"
    shutil.copytree(last, run / "model", copy_function=_link, ignore=shutil.ignore_patterns(readme))
    text = card_of((last / readme).read_text(encoding="utf-8"), folder=run / "model", of=last, source=source, body=card)
    (run / "model" / readme).write_text(text, encoding="utf-8")


def _link(source: str | Path, target: str | Path) -> None:
    """A second name of the file, which takes no space; a copy where the disk has no such links."""
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
