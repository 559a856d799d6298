"""The training of one model, from the baseline to the export: a run without stages, or one stage of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.collection import Collection
from data.progress import Progress
from data.sampling.mixture import Mixture
from data.truncation import Truncation
from engines.distributed import process_group
from engines.distributed.collectives import broadcast_object
from engines.protocol import Engine
from evaluation.evaluator import DevEvaluator, EvaluationResult, Evaluator
from evaluation.fusion import fit_weight, fuse
from evaluation.metrics import Metrics, measure
from evaluation.significance import paired_test
from inference.golden import make_golden, write_golden
from inference.interruptible import Interruptible
from models.prompts.run_prompts import RunPrompts
from recipes.advice import advice, measured_in
from recipes.baseline import save_final_scores, score_baseline
from recipes.finish import write_results
from recipes.model_card import model_card, settings_of
from recipes.other_sets import OtherSets
from recipes.results import Evaluate, TrainingOutcome, length_of, record, store_run, summarise, warn_if_cut
from runs.directory import RunDirectory
from trainers.state import load_engine
from trainers.trainer import Trainer


def train_model(
    trainer: Trainer,
    test: Evaluator,
    run: RunDirectory,
    *,
    training: Collection | Mixture,
    prompts: RunPrompts,
    remarks: Mapping[str, str],
    shared_baseline: Path | None = None,
    others: OtherSets | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    adapter_only: bool = False,
) -> dict[str, Any]:
    """Evaluate, train, evaluate, export and report. Returns the summary.

    `training` is the data to train on, `prompts` what stands before its texts, and `remarks` further lines of the model
    card. `shared_baseline` is the folder that keeps the starting model's scores for all runs. `others` are further sets
    on which the trained model is measured. `earlier` are the summaries of the stages before.
    """
    evaluate = make_evaluate(trainer.engine)
    baseline = score_baseline(test, evaluate, run, trainer.logger, shared_baseline)
    warn_if_cut(test, "test")
    trainer.fit()
    load_best(trainer)
    with Progress("test after training"):
        after = evaluate(test)
    dev = best_on_dev(trainer, evaluate)
    runs, results, weight = {"after": after.run}, {"before": baseline, "after": after.metrics}, None
    if test.has_first_stage:
        weight = fit_fusion(trainer.evaluator, dev)
        runs["fused"] = fuse(test.first_stage_run, after.run, weight)
        fused = measure(test.qrels, runs["fused"], test.config.metrics)
        results = {"first_stage": test.first_stage, **results, "fused": fused}
    for name, scores in runs.items():
        store_run(run, name, scores)
        record(run, trainer.logger, trainer.state.step, name, results[name])
    settings = {**settings_of(trainer), **remarks}
    entry = stage_entry(trainer, run, after.metrics, test.config.metric, settings)
    stages = [*(earlier[-1]["stages"] if earlier else ()), entry]
    summary = summarise(training, test, results, training_outcome(trainer), stages)
    summary |= {"fusion_weight": weight, "tests": significance(results, test.config.metric)}
    if others:
        summary["test_suite"] = others.score_end(trainer.engine.model, evaluate, trainer.logger, trainer.state.step)
    summary["advice"] = advise(trainer, run, summary, dev)
    if run.stage_lines is not None:
        entry["advice"] = summary["advice"]
    export_model(trainer, run, summary, prompts, settings, adapter_only=adapter_only)
    if run.stage_lines is not None and process_group.is_main():
        save_final_scores(run.path / "runs", after, dev)
    write_results(run, test, results, after, summary)
    return summary


def make_evaluate(engine: Engine) -> Evaluate:
    """A function that evaluates the engine's model and stops at a preemption."""
    return lambda evaluator: evaluator.evaluate(Interruptible(engine))


def load_best(trainer: Trainer) -> None:
    """Load the best checkpoint on dev. If there is none, keep the last weights."""
    best = trainer.checkpoints.best()
    if best is not None:
        load_engine(trainer.engine, best)


def best_on_dev(trainer: Trainer, evaluate: Evaluate) -> EvaluationResult | None:
    """The best model's result on dev; it is measured again after a resume. None if there is no dev split."""
    if trainer.evaluator is None:
        return None
    return trainer.best_result or evaluate(trainer.evaluator)


def fit_fusion(dev: DevEvaluator | None, result: EvaluationResult | None) -> float:
    """The fusion weight of the model that is best on dev; 1/2 if there is no dev split with a first stage."""
    if dev is None or result is None or not dev.has_first_stage:
        return 0.5
    return fit_weight(dev.first_stage_run, result.run, dev.qrels, dev.config.metric)


def significance(results: Mapping[str, Metrics], metric: str) -> dict[str, Any]:
    """Paired tests of the trained model, alone and fused, against the first stage, or against the starting model if
    there is no first stage; none if there are no values of single queries."""
    values = {name: result.per_query[metric] for name, result in results.items() if metric in result.per_query}
    other = next((name for name in ("first_stage", "before") if name in values), "")
    return {
        f"{name}_vs_{other}": asdict(paired_test(values[other], values[name]))
        for name in ("after", "fused")
        if other and name in values
    }


def training_outcome(trainer: Trainer) -> TrainingOutcome:
    """The facts about a trainer's training for summary.json."""
    state = trainer.state
    return TrainingOutcome(
        engine=trainer.engine.name,
        steps=state.step,
        seconds=state.totals["seconds"],
        rows=state.totals["rows"],
        tokens=state.totals["tokens"],
        best_dev=state.best_metric,
        best_step=state.best_step,
        epochs=state.step / trainer.updates_per_epoch,
        max_steps=trainer.max_steps,
        stopped_early=trainer.stopped_early,
        truncation=Truncation(**state.truncation) if state.truncation else None,
    )


def advise(trainer: Trainer, run: RunDirectory, summary: Mapping[str, Any], dev: EvaluationResult | None) -> str | None:
    """A line of advice if no checkpoint beat the start (with resume=PATH the best until there), whose result on `dev`
    is given; else None. Call it on all ranks."""
    best, line = trainer.state.best_step, None
    if process_group.is_main() and best is not None and best <= run.start_step():
        skipped = len(trainer.state.skipped_batches)
        measured = measured_in(run.path, summary, trainer.losses, dev, skipped, best_step=best)
        line = advice(measured, trainer.config)
    return broadcast_object(line)


def stage_entry(
    trainer: Trainer, run: RunDirectory, after: Metrics, metric: str, settings: Mapping[str, str]
) -> dict[str, Any]:
    """The entry of this trainer's stage in the `stages` of summary.json: its settings, costs and test metrics."""
    lines, state = run.stage_lines, trainer.state
    entry = {"name": lines.stage if lines else run.name, "metric": after.mean[metric]}
    if lines is None:
        return entry
    return entry | {
        "metrics": after.mean,
        "best_dev": state.best_metric,
        "best_step": state.best_step,  # counted within the stage; 0: the model that the stage started from is exported
        "steps": state.step,
        **length_of(training_outcome(trainer)),
        "seconds": state.totals["seconds"],
        "settings": dict(settings),
    }


def export_model(
    trainer: Trainer,
    run: RunDirectory,
    summary: Mapping[str, Any],
    prompts: RunPrompts,
    settings: Mapping[str, str],
    *,
    adapter_only: bool,
) -> None:
    """Export the loaded model to model/. Call it on all ranks."""
    model: Any = trainer.engine.model  # a models.capabilities.RankingModel
    model.adopt_prompts(prompts)
    golden = make_golden(model, trainer.engine.device)
    with trainer.engine.full_weights():
        if process_group.is_main():
            card = model_card(run.name, summary, start=str(model.source), seed=trainer.seed, settings=settings)
            model.export(run.path / "model", card=card, adapter_only=adapter_only)
            write_golden(run.path / "model", golden)
