"""A run with stages. Each stage has its own run directory and starts from the model that the stage before exported."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from data.truncation import Truncation
from engines.distributed.collectives import broadcast_object
from engines.distributed.process_group import is_main
from evaluation.evaluator import DevEvaluator, EvaluationResult, Evaluator
from models.capabilities import RankingModel
from models.export.folder import copy_card
from recipes.baseline import baseline_folder, read_dev, reuse_final_scores
from recipes.build import Data, build_trainer, dev_evaluator, read_corpus, test_evaluator
from recipes.checks.compatibility import check_model
from recipes.dev_suite import Sets
from recipes.model_card import model_card
from recipes.other_sets import OtherSets
from recipes.prompts import expect_prompts, lost_in_words
from recipes.run_config import RunConfig
from recipes.stages import Stage, stage_prompts
from recipes.train_model import make_evaluate, train_model
from runs.directory import RunDirectory
from runs.loggers.logger import Logger, StageLogger
from runs.places import contents_of
from runs.report.html import write_report
from runs.report.queries import join_queries
from runs.settings_tree import as_tree
from runs.stage_folders import StageLines, link_checkpoints
from runs.stored_run import QUERIES


def train_stages(
    settings: RunConfig,
    stages: Sequence[Stage],
    training: Sequence[Data],
    collection: Data,
    run: RunDirectory,
    sets: Sets,
    others: OtherSets,
    logger: Logger,
) -> dict[str, Any]:
    """Train the stages that are not finished. Returns the summary. `sets`: those of the dev suite; `others`: of the
    test suite, measured before the first stage and after the last."""
    sequence = StageSequence(settings, collection, run, training, sets, others)
    for stage, data in zip(stages, training, strict=True):
        summary = sequence.train(stage, data, StageLogger(logger, stage.number, sequence.num_steps))
        free_memory()
        report_stage(stage, len(stages), summary)
    summary = join_summaries(sequence.summaries)
    if is_main():
        source = settings.model.name_or_path
        card = model_card(run.name, summary, start=source, seed=settings.seed)
        link_results(run.path, sequence.folders, source=source, card=card)
        write_report(run.path, summary)
    run.write_summary(summary)
    return summary


class StageSequence:
    """Trains stages one after the other. Dev and test are tokenised once, and the final scores of a stage are reused as
    the baseline of the next."""

    def __init__(
        self,
        settings: RunConfig,
        collection: Data,
        run: RunDirectory,
        training: Sequence[Data],
        sets: Sets,
        others: OtherSets,
    ):
        self.settings, self.collection, self.run, self.training = settings, collection, run, training
        self.sets, self.others = sets, others
        self.finished: list[tuple[Stage, RunDirectory]] = []
        self.evaluators: tuple[DevEvaluator | None, Evaluator] | None = None

    @property
    def folders(self) -> list[Path]:
        return [directory.path for _, directory in self.finished]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        return [directory.summary for _, directory in self.finished if directory.summary is not None]

    @property
    def num_steps(self) -> int:
        """The updates of the finished stages, which depend on their data and on whether they were stopped early."""
        return sum(summary["steps"] for summary in self.summaries)

    def train(self, stage: Stage, data: Data, logger: Logger) -> dict[str, Any]:
        """Train the next stage unless it is finished. Returns its summary."""
        if self.finished:
            stage = stage.starting_from(self.folders[-1] / "model")
        directory = self._open(stage)
        if not directory.finished:
            model = stage.settings.model.build(self.settings.seed)
            check_model(stage.settings, model)
            expect_prompts(model, self.collection, *self.training)
            read_corpus(model, self.collection, data)
            dev, test = self._evaluators_for(model)
            prompts = stage_prompts(stage, self.collection, data)
            shared_baseline = None if self.finished else baseline_folder(self.settings, self.collection, model)
            trainer = build_trainer(
                stage.settings,
                data,
                directory,
                model,
                evaluator=dev,
                logger=logger,
                start_result=start_from_final_scores(self.folders[-1], directory.path) if self.finished else None,
            )
            if not self.finished:
                self.others.score_start(model, make_evaluate(trainer.engine), logger, shared_baseline)
            train_model(
                trainer,
                test,
                directory,
                training=data,
                prompts=prompts,
                remarks=lost_in_words(stage.settings.model, prompts),
                shared_baseline=shared_baseline,
                others=self.others if stage.number == len(self.settings.stages) else None,
                earlier=self.summaries,
                adapter_only=stage.settings.adapter_only,
            )
        assert directory.summary is not None
        self.finished.append((stage, directory))
        return directory.summary

    def _open(self, stage: Stage) -> RunDirectory:
        """Open the stage's own directory, and write the run's metrics.jsonl again from those of all stages so far, so
        that it is complete whenever the run was stopped. The settings of the whole run have been compared already, so
        only the path of the model that the stage starts from may differ, and its content is not read."""
        directory = RunDirectory.open(
            as_tree(stage.settings),
            may_differ=["model.name_or_path"] if self.finished else [],
            read_contents=lambda: contents_of(replace(stage.settings, model=self.settings.model)),
        )
        directory.stage_lines = StageLines(self.run.metrics_file, stage.name, self.num_steps)
        if is_main():
            self.run.metrics_file.unlink(missing_ok=True)
            first_steps = accumulate([summary["steps"] for summary in self.summaries], initial=0)
            for (past, opened), first_step in zip([*self.finished, (stage, directory)], first_steps, strict=True):
                StageLines(self.run.metrics_file, past.name, first_step).copy(opened.metrics_file)
            link_checkpoints(self.run.path, directory.path)
        return directory

    def _evaluators_for(self, model: RankingModel) -> tuple[DevEvaluator | None, Evaluator]:
        """The evaluators of dev and test, made once: all stages have the same tokenizer."""
        if self.evaluators is None:
            self.evaluators = (
                dev_evaluator(self.settings, self.collection, model, self.sets),
                test_evaluator(self.settings, self.collection, model),
            )
        return self.evaluators


def start_from_final_scores(earlier: Path, folder: Path) -> EvaluationResult | None:
    """Give the stage in `folder` the final scores of the `earlier` one: those on test as files, those on dev
    returned."""
    if not is_main():
        return broadcast_object(None)
    reuse_final_scores(folder / "runs", earlier / "runs")
    return broadcast_object(read_dev(earlier / "runs"))


def report_stage(stage: Stage, count: int, summary: Mapping[str, Any]) -> None:
    """Print one line about a finished stage."""
    if is_main():
        metric, note = summary["metric"], ", no checkpoint beat its start on dev" * (summary["best_step"] == 0)
        note += f", ended early at step {summary['steps']} of {summary['max_steps']}" * summary["stopped_early"]
        print(
            f"stage {stage.number} of {count}, {stage.name}: test {metric} {summary['before']:.4f} -> "
            f"{summary['after']:.4f}{note}",
            flush=True,
        )


def free_memory() -> None:
    """Free the memory of a stage's engine before the next stage starts."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def join_summaries(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run's summary.json: metrics before the first and after the last stage, and the sum of all costs."""
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
        "epochs": None,  # each stage has its own
        "max_steps": sum(summary["max_steps"] for summary in summaries),
        "stopped_early": any(summary["stopped_early"] for summary in summaries),
        "advice": advice_of_stages(last["stages"]),
        "seconds": seconds,
        "truncated": {**last["truncated"], **trained_truncation(summaries)},
        "peak_memory_bytes": max(summary["peak_memory_bytes"] for summary in summaries),
    }


def advice_of_stages(stages: Sequence[Mapping[str, Any]]) -> str | None:
    """The advice of all stages that did not beat their start, each with the name of the stage."""
    lines = [f"stage {stage['name']}: {stage['advice']}" for stage in stages if stage.get("advice")]
    return " ".join(lines) or None


def trained_truncation(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of the training lists of all stages, by their key in `truncated`; empty if no stage counts them."""
    counts = [Truncation(**summary["truncated"]["train"]) for summary in summaries if "train" in summary["truncated"]]
    return {"train": asdict(sum(counts, Truncation()))} if counts else {}


def exported_step(summaries: Sequence[Mapping[str, Any]]) -> int | None:
    """The run's step whose weights are exported. A stage that did not improve on dev exports the model that it started
    from, so the step may belong to an earlier stage. 0: the starting model; None: the last step, if there is no dev
    split."""
    first_step = sum(summary["steps"] for summary in summaries)
    for summary in reversed(summaries):
        first_step -= summary["steps"]
        if summary["best_step"] is None:
            return None
        if summary["best_step"] > 0:
            return first_step + summary["best_step"]
    return 0


def link_results(run: Path, stages: Sequence[Path], *, source: str, card: str) -> None:
    """Put the last stage's model, test scores and queries.json into the run's folder, as hard links if possible. The
    model card is the run's own: `card` is its text, `source` the model that training started from."""
    for file in ("runs/before.run", "runs/before.json"):
        _link(stages[0] / file, run / file)
    join_queries(stages[0] / QUERIES, stages[-1] / QUERIES, run / QUERIES)
    for file in ("runs/after.run", "runs/fused.run", "queries.json"):
        if (stages[-1] / file).is_file():  # the last two are those of a ranking
            _link(stages[-1] / file, run / file)
    shutil.rmtree(run / "model", ignore_errors=True)
    last, readme = stages[-1] / "model", "README.md"
    shutil.copytree(last, run / "model", copy_function=_link, ignore=shutil.ignore_patterns(readme))
    text = copy_card(
        (last / readme).read_text(encoding="utf-8"), folder=run / "model", of=last, source=source, body=card
    )
    (run / "model" / readme).write_text(text, encoding="utf-8")


def _link(source: str | Path, target: str | Path) -> None:
    """Make a hard link, which takes no space; copy the file if the file system has none."""
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
