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
from data.sampling.mixture import Mixture
from engines.checkpoint.manifest import flush
from engines.distributed.collectives import broadcast_object
from engines.distributed.process_group import is_main
from evaluation.evaluator import EvaluationResult, Evaluator, Prompts
from evaluation.metrics import Metrics
from recipes.results import Evaluate, record
from recipes.run_config import RunConfig
from runs.directory import RunDirectory
from runs.files import read_json
from runs.loggers.logger import Logger
from runs.settings_tree import as_tree
from runs.source_tree import from_package_down, hash_sources

READ_OF_A_MODEL = (".json", ".jinja", ".txt", ".model")  # of its folder, beside the weights


def baseline_folder(settings: RunConfig, collection: Collection | Mixture, model: nn.Module) -> Path:
    """Where the scores are kept, named after the weights, data, options and code that they come from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(hash_sources(from_package_down("evaluation")).encode())
    start = settings.model.folder()
    for file in sorted(start.rglob("*") if start else ()):
        if file.suffix in READ_OF_A_MODEL and file.is_file():  # prompts, pooling, tokenizer, ...
            digest.update(file.name.encode() + file.read_bytes())
    nodes = as_tree([settings.eval, settings.model, settings.engine])
    libraries = [torch.__version__, transformers.__version__]
    digest.update(f"{collection.fingerprint} {Prompts.of(collection)} {nodes} {libraries}".encode())
    return Path(settings.output_dir) / ".before" / digest.hexdigest()


def read_baseline(folder: Path, known: Path | None) -> Metrics | None:
    """The metrics in a run's `folder`, after those of another run (`known`) are copied there; None: neither has any."""
    if known is not None and not (folder / "before.json").is_file() and (known / "before.json").is_file():
        _copy(known, folder)
    return Metrics(**read_json(folder / "before.json")) if (folder / "before.json").is_file() else None


def save_baseline(folder: Path, known: Path | None, result: EvaluationResult) -> None:
    """Metrics and run file, for a resumed run and for other runs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_trec_run(folder / "before.run", result.run, tag="before")
    _write(folder / "before.json", json.dumps(asdict(result.metrics)).encode())
    if known is not None:
        _copy(folder, known)


def score_baseline(
    test: Evaluator, evaluate: Evaluate, run: RunDirectory, logger: Logger, known: Path | None = None
) -> Metrics:
    """The starting model's metrics on test: this run's own if it was interrupted, those of another run from the same
    weights (`known`), or new ones, which `evaluate` makes."""
    folder = run.path / "runs"
    metrics = broadcast_object(read_baseline(folder, known) if is_main() else None)
    if metrics is None:
        if is_main():
            print(f"ranking {len(test.queries)} test queries before training", file=sys.stderr, flush=True)
        result = evaluate(test)
        metrics = result.metrics
        if is_main():
            save_baseline(folder, known, result)
    if not run.has_line("test", 0):
        record(run, logger, 0, "before", metrics)
    return metrics


def save_final_scores(folder: Path, after: EvaluationResult, dev: EvaluationResult | None) -> None:
    """What a stage's last model is on test, and on dev: `reuse_final_scores` makes it the start of the next stage."""
    write_trec_run(folder / "after.run", after.run, tag="after")
    _write(folder / "after.json", json.dumps(asdict(after.metrics)).encode())
    if dev is not None:
        _write(folder / "dev.json", json.dumps(asdict(dev)).encode())


def reuse_final_scores(folder: Path, earlier: Path) -> None:
    """Let a stage's `folder` start from the test scores that the `earlier` one ended with: they are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("run", "json"):
        _write(folder / f"before.{suffix}", (earlier / f"after.{suffix}").read_bytes())


def read_dev(folder: Path) -> EvaluationResult | None:
    """The dev result of a stage's last model; None where there is no dev split."""
    if not (folder / "dev.json").is_file():
        return None
    found = read_json(folder / "dev.json")
    return EvaluationResult(Metrics(**found["metrics"]), found["run"])


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("before.run", "before.json"):  # the metrics last: where they are, all is
        _write(target / name, (source / name).read_bytes())


def _write(file: Path, content: bytes) -> None:
    """Write the file atomically."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    flush(unfinished)
    unfinished.replace(file)
