"""What a training run does, from its configuration to its report."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from data.collection import Collection
from data.mixture import Mixture, make_loader
from data.run_files import write_trec_run
from engines import preemption, process_group
from engines.collectives import broadcast_object, gather_objects
from engines.interruptible import Interruptible
from engines.memory import keep_freed_memory, peak_memory_bytes
from evaluation.evaluator import Evaluator, Prompts
from evaluation.fusion import fit_weight, fuse
from evaluation.metrics import Metrics, Run, measure
from evaluation.queries import write_queries
from evaluation.report import print_table, result_rows, write_report
from evaluation.significance import paired_test
from evaluation.table import format_table
from launch.before import before_folder, read_before, write_before
from launch.checks import check_data, check_model, check_parts
from launch.compose import instantiate
from launch.config import RunConfig
from losses.contracts import compares_lists, reads_of
from models.bi_encoder import BiEncoder
from models.cross_encoder import CrossEncoder
from models.export import export, push_to_hub
from models.llm_reranker import LLMReranker
from models.resolve import resolve
from trainers.run_directory import RunDirectory
from trainers.trainer import Trainer

logger = logging.getLogger(__name__)


@preemption.handled()
def train(config: DictConfig) -> float | None:
    """Train, evaluate and export; returns the dev metric of the best checkpoint (what a sweep optimises)."""
    settings: RunConfig = instantiate(config)
    check_parts(settings)
    keep_freed_memory()
    for model in (settings.model, settings.teacher, settings.guide):
        if model is not None:
            resolve(model.name_or_path)  # a model that cannot be had is known before the data is read
    collection = settings.data.build()  # before the first collective, in which others would wait
    check_data(settings, collection)
    preemption.defer()
    process_group.start()
    run = RunDirectory.open(config)  # after what a user may have to correct: resume=none moves an older run aside
    if run.finished:
        return show_finished(run)
    model = settings.model.build(settings.seed)
    check_model(settings, model)
    known = before_folder(settings, config, collection, model)
    trainer = make_trainer(settings, config, collection, run, model)
    prompts = Prompts.of(collection)
    test = settings.eval.build(collection.split("test"), collection.documents, model.tokenizer, prompts=prompts)

    before = score_before(trainer, test, run, known)
    trainer.fit()
    summary = finish(trainer, test, before, run, collection, adapter_only=settings.adapter_only)
    trainer.logger.finish(summary)
    if settings.push_to_hub and process_group.is_main():
        upload(run.path / "model", settings.push_to_hub)
    process_group.stop()
    return summary["best_dev"]


def make_trainer(
    settings: RunConfig,
    config: DictConfig,
    collection: Collection | Mixture,
    run: RunDirectory,
    model: CrossEncoder | LLMReranker | BiEncoder,
) -> Trainer:
    """The trainer of a configuration, of which `settings` are the objects."""
    run.describe_data(collection.name, collection.fingerprint)
    if "query_layers" in reads_of(settings.loss):
        assert isinstance(model, BiEncoder)
        model.returns_layers = True
    frozen = {
        role: options.build(settings.seed)
        for role, options in (("teacher", settings.teacher), ("guide", settings.guide))
        if options is not None
    }
    if getattr(frozen.get("teacher"), "fresh_head", False):
        raise ValueError(f"teacher {settings.teacher.name_or_path} has no score head: train it first")
    options = settings.trainer
    loader = make_loader(
        collection,
        model.tokenizer,
        list_size=options.list_size,
        batch_size=options.batch_size,
        seed=settings.seed,
        rank=process_group.rank(),
        world_size=process_group.world_size(),
        workers=options.workers,
        couples_lists=compares_lists(settings.loss),
        frozen={role: other.tokenizer for role, other in frozen.items()},
    )
    dev, prompts = collection.splits.get("dev"), Prompts.of(collection)
    return options.build(
        model=model,
        engine_config=settings.engine,
        loader=loader,
        padding=model.tokenizer.padding,
        loss=settings.loss,
        evaluator=settings.eval.build(dev, collection.documents, model.tokenizer, dev=True, prompts=prompts)
        if dev
        else None,
        run=run,
        logger=settings.logger.build(run, config),
        seed=settings.seed,
        frozen=frozen,
    )


def score_before(trainer: Trainer, test: Evaluator, run: RunDirectory, known: Path) -> Metrics:
    """The starting model's metrics on test: this run's own if it was interrupted, those of another run from the same
    weights, or new ones."""
    folder = run.path / "runs"
    metrics = broadcast_object(read_before(folder, known) if process_group.is_main() else None)
    if metrics is None:
        result = test.evaluate(Interruptible(trainer.engine).forward, trainer.engine.device)
        metrics = result.metrics
        if process_group.is_main():
            write_before(folder, known, result)
    if not run.has_line("test", 0):
        record(run, trainer, 0, "before", metrics)
    return metrics


def store_run(run: RunDirectory, name: str, scores: Run) -> None:
    """Test scores as a TREC run file."""
    if process_group.is_main():
        (run.path / "runs").mkdir(exist_ok=True)
        write_trec_run(run.path / "runs" / f"{name}.run", scores, tag=name)


def record(run: RunDirectory, trainer: Trainer, step: int, name: str, metrics: Metrics) -> None:
    """Test metrics as a line of metrics.jsonl."""
    run.append_metrics({"step": step, "split": "test", "name": name, **metrics.mean})
    trainer.logger.log({f"test/{metric}": value for metric, value in metrics.mean.items()}, step)


def finish(
    trainer: Trainer,
    test: Evaluator,
    before: Metrics,
    run: RunDirectory,
    collection: Collection | Mixture,
    *,
    adapter_only: bool = False,
) -> dict[str, Any]:
    """Load the best checkpoint, score test, fuse with the weight fitted on dev, export, report."""
    engine, metrics = trainer.engine, test.config.metrics
    best = trainer.checkpoints.best()
    if best is not None:
        trainer.load(best)
    after = test.evaluate(Interruptible(engine).forward, engine.device)
    weight = fit_fusion(trainer)
    fused = fuse(test.first_stage_run, after.run, weight)
    results = {
        "first_stage": test.first_stage,
        "before": before,
        "after": after.metrics,
        "fused": measure(test.qrels, fused, metrics),
    }
    for name, scores in (("after", after.run), ("fused", fused)):
        store_run(run, name, scores)
        record(run, trainer, trainer.step, name, results[name])
    summary = {"data": collection.name, "data_hash": collection.fingerprint}
    summary |= summarise(trainer, test, results, weight)
    adopt_prompts(engine.model, Prompts.of(collection))
    with engine.full_weights():
        if process_group.is_main():
            export(engine.model, run.path / "model", card=model_card(trainer, summary), adapter_only=adapter_only)
    if process_group.is_main():
        write_queries(run.path / "queries.json", test, after)
        write_report(run.path, summary)
    run.write_summary(summary)  # last: from now on the run counts as finished
    if process_group.is_main():
        print_table(summary)
        if trainer.best_step == 0:
            print("note: no checkpoint beat the starting model on dev, which is what is exported")
        print(f"model: {run.path / 'model'}   report: {run.path / 'report.html'}")
    return summary


def adopt_prompts(model: nn.Module, prompts: Prompts) -> None:
    """The data's prompts become the model's: the export embeds texts as they were trained and evaluated."""
    given = {role: text for role, text in asdict(prompts).items() if text is not None}
    if given and isinstance(model, BiEncoder):
        model.tokenizer = replace(model.tokenizer, prompts={**model.tokenizer.prompts, **given})
    if given and isinstance(model, LLMReranker):
        model.tokenizer = model.tokenizer.adopting(prompts.query, prompts.document)


def upload(folder: Path, name: str) -> None:
    """To the hub; a hub that refuses does not take back a finished run."""
    try:
        print(f"uploaded: {push_to_hub(folder, name)}")
    except ValueError as error:
        logger.warning("%s is not uploaded: %s", folder, error)


def fit_fusion(trainer: Trainer) -> float:
    """The weight of the model beside the first stage that is best on dev; 1/2 where there is no dev split."""
    dev = trainer.evaluator
    if dev is None:
        return 0.5
    scores = trainer.best_run or dev.evaluate(Interruptible(trainer.engine).forward, trainer.engine.device).run
    return fit_weight(dev.first_stage_run, scores, dev.qrels, dev.config.metric)


def summarise(trainer: Trainer, test: Evaluator, results: dict[str, Metrics], weight: float) -> dict[str, Any]:
    metric = test.config.metric
    values = {name: result.per_query[metric] for name, result in results.items()}
    totals = trainer.totals
    return {
        "metric": metric,
        **{name: result.mean[metric] for name, result in results.items()},
        "best_dev": trainer.best_metric,
        "best_step": trainer.best_step,
        "stages": [{"name": trainer.run.name, "metric": results["after"].mean[metric]}],
        "metrics": {name: result.mean for name, result in results.items()},
        "recall_ceiling": test.recall_ceiling,
        "ceiling": test.ceiling.mean,
        "fusion_weight": weight,
        "tests": {
            "after_vs_first_stage": asdict(paired_test(values["first_stage"], values["after"])),
            "fused_vs_first_stage": asdict(paired_test(values["first_stage"], values["fused"])),
        },
        "test_queries": len(test.queries),
        "steps": trainer.step,
        "seconds": totals["seconds"],
        "rows_per_s": totals["rows"] / max(totals["seconds"], 1e-9),
        "tokens_per_s": totals["tokens"] / max(totals["seconds"], 1e-9),
        "peak_memory_bytes": max(gather_objects(peak_memory_bytes())),
        "engine": trainer.engine.name,
        "world_size": process_group.world_size(),
    }


def model_card(trainer: Trainer, summary: dict[str, Any]) -> str:
    """What the exported model was trained on and with, and how it ranks."""
    config = trainer.config
    settings = {
        "data": f"{summary['data']} (hash {summary['data_hash']})",
        "loss": repr(trainer.loss),
        "steps": f"{summary['steps']} (exported: step {summary['best_step']}, the best on dev)",
        "batch": f"{config.batch_size} queries with up to {config.list_size} documents each",
        "optimizer": f"{config.optimizer}, learning rate {config.learning_rate:g}, {config.schedule} schedule",
        "engine": f"{summary['engine']} on {summary['world_size']} rank(s)",
    }
    table = format_table(result_rows(summary))
    return (
        "Trained by plackett.\n\n"
        + "\n".join(f"- {name}: {value}" for name, value in settings.items())
        + f"\n\nOn {summary['test_queries']} test queries:\n\n```\n{table}\n```\n"
    )


def show_finished(run: RunDirectory) -> float | None:
    """The results of a run that has already ended."""
    assert run.summary is not None
    if process_group.is_main():
        print(f"{run.path} is finished ({run.summary['steps']} steps); resume=none trains it again")
        print_table(run.summary)
    process_group.stop()
    return run.summary["best_dev"]
