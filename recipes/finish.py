"""How a run, or one stage of it, ends: the best checkpoint measured on test, fused, exported and summarised."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.collection import Collection
from data.sampling.mixture import Mixture
from engines.distributed import process_group
from engines.distributed.collectives import gather_objects
from engines.memory.allocator import peak_memory_bytes
from evaluation.evaluator import EvaluationResult, Evaluator, Prompts
from evaluation.fusion import fit_weight, fuse
from evaluation.metrics import Metrics, measure
from evaluation.significance import paired_test
from inference.interruptible import Interruptible
from models.capabilities import RankingModel
from models.export.hub import push_to_hub
from recipes.baseline import save_final_scores
from recipes.model_card import model_card, settings_of
from recipes.results import record, store_run
from runs.directory import RunDirectory
from runs.report.content import print_table
from runs.report.html import write_report
from runs.report.queries import write_queries
from trainers.trainer import Trainer

logger = logging.getLogger(__name__)


def finish(
    trainer: Trainer,
    test: Evaluator,
    before: Metrics,
    run: RunDirectory,
    *,
    collection: Collection | Mixture,
    training: Collection | Mixture,
    earlier: Sequence[Mapping[str, Any]] = (),
    adapter_only: bool = False,
) -> dict[str, Any]:
    """Load the best checkpoint, score test, fuse with the weight fitted on dev, export, report.

    `collection` is measured on and `training` was trained on; `earlier` are the summaries of the stages before.
    """
    engine, metrics = trainer.engine, test.config.metrics
    best = trainer.checkpoints.best()
    if best is not None:
        trainer.load(best)
    after = test.evaluate(Interruptible(engine))
    dev = best_on_dev(trainer)
    weight = fit_fusion(trainer, dev)
    fused = fuse(test.first_stage_run, after.run, weight)
    results = {
        "first_stage": test.first_stage,
        "before": before,
        "after": after.metrics,
        "fused": measure(test.qrels, fused, metrics),
    }
    for name, scores in (("after", after.run), ("fused", fused)):
        store_run(run, name, scores)
        record(run, trainer.logger, trainer.state.step, name, results[name])
    summary = {"data": training.name, "data_hash": training.fingerprint}
    summary |= summarise(trainer, run, test, results, weight, earlier)
    model: Any = engine.model  # a models.capabilities.RankingModel
    adopt_prompts(model, Prompts.of(collection))
    with engine.full_weights():
        if process_group.is_main():
            start, settings = str(model.source), settings_of(trainer)
            card = model_card(run.name, summary, start=start, seed=trainer.seed, settings=settings)
            model.export(run.path / "model", card=card, adapter_only=adapter_only)
    if process_group.is_main():
        if run.joined is not None:
            save_final_scores(run.path / "runs", after, dev)
        write_queries(run.path / "queries.json", test, after)
        write_report(run.path, summary)
    run.write_summary(summary)  # last: from now on the run counts as finished
    return summary


def print_results(run: RunDirectory, summary: Mapping[str, Any]) -> None:
    """The table of a finished run and where its files are."""
    if process_group.is_main():
        print_table(summary)
        print(f"model: {run.path / 'model'}   report: {run.path / 'report.html'}")


def adopt_prompts(model: RankingModel, prompts: Prompts) -> None:
    """Make the data's prompts the model's: the export reads texts as they were in training and evaluation."""
    model.adopt_prompts(prompts.query, prompts.document)


def upload(folder: Path, name: str | None) -> None:
    """To the hub, where `name` says so; a hub that refuses does not take back a finished run. All ranks call it."""
    if name is None:
        return
    if process_group.is_main():
        try:
            print(f"uploaded: {push_to_hub(folder, name)}")
        except ValueError as error:
            logger.warning("%s is not uploaded (the same command tries again): %s", folder, error)
    process_group.barrier()  # srun ends the node of rank 0 some minutes after the others have left


def best_on_dev(trainer: Trainer) -> EvaluationResult | None:
    """The loaded best model on dev, measured anew where another process did; None where there is no dev split."""
    if trainer.evaluator is None:
        return None
    return trainer.best_result or trainer.evaluator.evaluate(Interruptible(trainer.engine))


def fit_fusion(trainer: Trainer, result: EvaluationResult | None) -> float:
    """The weight of the model beside the first stage that is best on dev; 1/2 where there is no dev split."""
    dev = trainer.evaluator
    if dev is None or result is None:
        return 0.5
    return fit_weight(dev.first_stage_run, result.run, dev.qrels, dev.config.metric)


def summarise(
    trainer: Trainer,
    run: RunDirectory,
    test: Evaluator,
    results: dict[str, Metrics],
    weight: float,
    earlier: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    metric = test.config.metric
    values = {name: result.per_query[metric] for name, result in results.items()}
    totals = trainer.state.totals
    return {
        "metric": metric,
        **{name: result.mean[metric] for name, result in results.items()},
        "best_dev": trainer.state.best_metric,
        "best_step": trainer.state.best_step,
        "stages": [*(earlier[-1]["stages"] if earlier else ()), stage_entry(trainer, run, results, metric)],
        "metrics": {name: result.mean for name, result in results.items()},
        "recall_ceiling": test.candidate_recall,
        "ceiling": test.oracle.mean,
        "fusion_weight": weight,
        "tests": {
            "after_vs_first_stage": asdict(paired_test(values["first_stage"], values["after"])),
            "fused_vs_first_stage": asdict(paired_test(values["first_stage"], values["fused"])),
        },
        "test_queries": len(test.queries),
        "steps": trainer.state.step,
        "seconds": totals["seconds"],
        "rows_per_s": totals["rows"] / max(totals["seconds"], 1e-9),
        "tokens_per_s": totals["tokens"] / max(totals["seconds"], 1e-9),
        "peak_memory_bytes": max(gather_objects(peak_memory_bytes())),
        "engine": trainer.engine.name,
        "world_size": process_group.world_size(),
    }


def stage_entry(trainer: Trainer, run: RunDirectory, results: dict[str, Metrics], metric: str) -> dict[str, Any]:
    """The line of summary.json's `stages` for this trainer's stage: what it was and where it ended, on test."""
    joined = run.joined
    entry = {"name": joined.stage if joined else run.name, "metric": results["after"].mean[metric]}
    if joined is None:
        return entry
    return entry | {
        "metrics": results["after"].mean,
        "best_dev": trainer.state.best_metric,
        "best_step": trainer.state.best_step,  # of the stage's own; 0: it has passed on the model that it began with
        "steps": trainer.state.step,
        "seconds": trainer.state.totals["seconds"],
        "settings": settings_of(trainer),
    }
