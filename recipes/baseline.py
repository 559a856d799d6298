"""The starting model's test scores, made once for all runs of a sweep that start from the same weights."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from torch import nn

from data.collection import Collection
from data.formats.trec import write_trec_run
from data.progress import Progress
from data.sampling.mixture import Mixture
from engines.checkpoint.manifest import flush
from engines.distributed.collectives import broadcast_object
from engines.distributed.process_group import is_main
from evaluation.evaluator import EvaluationResult, Evaluator, Prompts
from evaluation.metrics import Metrics
from inference.runner import int8_ranges_of
from recipes.results import Evaluate, record
from recipes.run_config import RunConfig
from runs.directory import RunDirectory
from runs.files import read_json
from runs.loggers.logger import Logger
from runs.settings_tree import as_tree
from runs.source_tree import from_package_down, hash_sources

# Suffixes of the files in a model's folder that change its scores, beside the weights.
MODEL_FILE_SUFFIXES = (".json", ".jinja", ".txt", ".model")


def baseline_folder(settings: RunConfig, collection: Collection | Mixture, model: nn.Module) -> Path:
    """The folder that keeps the scores. Its name is a hash of the weights, data, options and code that they come
    from."""
    digest = hashlib.blake2b(digest_size=16)
    ranges = int8_ranges_of(model)
    known = set() if ranges is None else {f"int8_ranges.dim_{dim}" for dim in ranges.known()}
    for name, value in sorted(model.state_dict().items()):
        if name.startswith("int8_ranges.") and name not in known:
            continue  # nothing is observed yet: the same scores as those of a model that keeps no ranges
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy().data
        )
    digest.update(hash_sources(from_package_down("evaluation")).encode())
    start = settings.model.folder()
    for file in sorted(start.rglob("*") if start else ()):
        if file.suffix in MODEL_FILE_SUFFIXES and file.is_file():  # prompts, pooling, tokenizer, ...
            digest.update(file.name.encode() + file.read_bytes())
    nodes = as_tree([settings.eval, settings.model, settings.engine])
    libraries = [torch.__version__, transformers.__version__]
    digest.update(f"{collection.fingerprint} {Prompts.of(collection)} {nodes} {libraries}".encode())
    return Path(settings.output_dir) / ".before" / digest.hexdigest()


def read_baseline(folder: Path, shared: Path | None) -> Metrics | None:
    """Read the baseline from a run's `folder`; if it has none, copy it from the folder `shared` by several runs first.

    None if neither has it.
    """
    if shared is not None and not (folder / "before.json").is_file() and (shared / "before.json").is_file():
        _copy(shared, folder)
    return Metrics(**read_json(folder / "before.json")) if (folder / "before.json").is_file() else None


def save_baseline(folder: Path, shared: Path | None, result: EvaluationResult) -> None:
    """Save the baseline's metrics and run file in a run's `folder`, and in the folder `shared` by several runs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_trec_run(folder / "before.run", result.run, tag="before")
    _write(folder / "before.json", json.dumps(asdict(result.metrics)).encode())
    if shared is not None:
        _copy(folder, shared)


def score_baseline(
    test: Evaluator, evaluate: Evaluate, run: RunDirectory, logger: Logger, shared: Path | None = None
) -> Metrics:
    """The starting model's metrics on test (`measure_start`), as a line of metrics.jsonl."""
    metrics = measure_start(test, "test", evaluate, run.path / "runs", shared)
    if not run.has_line("test", 0):
        record(run, logger, 0, "before", metrics)
    return metrics


def measure_start(test: Evaluator, name: str, evaluate: Evaluate, folder: Path, shared: Path | None) -> Metrics:
    """The starting model's metrics on the test split of that name. They are read from the run's `folder` if it was
    interrupted, or from the folder `shared` by all runs that start from the same weights; else `evaluate` measures
    them. Call it on all ranks."""
    metrics = broadcast_object(read_baseline(folder, shared) if is_main() else None)
    if metrics is None:
        if is_main():
            pairs, queries = test.num_pairs, len(test.queries)
            work = f"ranking {queries} {name} queries" if pairs is None else f"scoring {pairs} {name} pairs"
            print(f"{work} before training", file=sys.stderr, flush=True)
        with Progress(f"{name} before training"):
            result = evaluate(test)
        metrics = result.metrics
        if is_main():
            save_baseline(folder, shared, result)
    return metrics


def save_final_scores(folder: Path, after: EvaluationResult, dev: EvaluationResult | None) -> None:
    """Save the scores of a stage's final model on test and dev. `reuse_final_scores` makes them the next stage's
    baseline."""
    write_trec_run(folder / "after.run", after.run, tag="after")
    _write(folder / "after.json", json.dumps(asdict(after.metrics)).encode())
    if dev is not None:
        _write(folder / "dev.json", json.dumps(asdict(dev)).encode())


def reuse_final_scores(folder: Path, earlier: Path) -> None:
    """Copy the final test scores of the `earlier` stage to `folder` as its baseline, so that they are not measured
    again."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("run", "json"):
        _write(folder / f"before.{suffix}", (earlier / f"after.{suffix}").read_bytes())


def read_dev(folder: Path) -> EvaluationResult | None:
    """The dev result of a stage's final model; None if there is no dev split."""
    if not (folder / "dev.json").is_file():
        return None
    content = read_json(folder / "dev.json")
    return EvaluationResult(Metrics(**content["metrics"]), content["run"])


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("before.run", "before.json"):  # the metrics last: if they are there, the run file is too
        _write(target / name, (source / name).read_bytes())


def _write(file: Path, content: bytes) -> None:
    """Write the file atomically."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    flush(unfinished)
    unfinished.replace(file)
