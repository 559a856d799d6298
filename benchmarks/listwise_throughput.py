"""Listwise training speed beside sentence-transformers' CrossEncoder with LambdaLoss.

    python benchmarks/listwise_throughput.py [--runs 5] [--steps 20] [--batch-size 4] [--list-size 8] [--max-length 128]

Both train the same model, with its dropout, on the same lists of the docstring collection (same length limit and batch;
sentence-transformers shuffles them), each run in a process of its own, alternating. Ours is the softmax cross-entropy:
on lists of 8 the loss itself costs next to nothing on either side. Rows are (query, document) pairs; the first steps
are not counted. The share of peak is the model's floating-point operations per second, counted on unpadded rows, over
those of a large fp32 matmul measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

WARM_UP_STEPS = 3
MATMUL_SIZE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("runs", 5), ("steps", 20), ("batch-size", 4), ("list-size", 8), ("max-length", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--side", choices=("plackett", "sentence-transformers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run = train_plackett if arguments.side == "plackett" else train_sentence_transformers
        print(json.dumps(run(arguments)))
        return
    figures: dict[str, list[dict[str, float]]] = {"plackett": [], "sentence-transformers": []}
    for number in range(arguments.runs):
        for side in figures:
            figures[side].append(measure(side))
            print(f"run {number + 1} {side}: {figures[side][-1]}", flush=True)
    report(figures)


def measure(side: str) -> dict[str, float]:
    """One run in a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    return json.loads(finished.stdout.strip().splitlines()[-1])


def report(figures: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        side: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for side, runs in figures.items()
    }
    print(f"\n{'median of runs':22}  rows/s  share of fp32 matmul peak  peak memory MiB")
    for side, median in medians.items():
        speed, share, memory = (median[name] for name in ("rows_per_s", "share_of_peak", "peak_memory_mib"))
        print(f"{side:22}  {speed:6.1f}  {share:25.1%}  {memory:15.0f}")
    pairs = zip(figures["plackett"], figures["sentence-transformers"], strict=True)
    ratios = sorted(ours["rows_per_s"] / theirs["rows_per_s"] for ours, theirs in pairs)
    print(f"ratio plackett / sentence-transformers: median {statistics.median(ratios):.2f}, all {ratios}")


def train_plackett(arguments: argparse.Namespace) -> dict[str, float]:
    from engines.memory import keep_freed_memory

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(arguments, folder)
        ends: list[float] = []
        step = trainer.train_step

        def timed_step(batch: Any) -> dict[str, Any]:
            statistics = step(batch)
            ends.append(time.perf_counter())
            return statistics

        trainer.train_step = timed_step
        trainer.fit()
        batches = trainer.loader.iterate(0)
        lengths = [int(example.rows.lengths.sum()) for _ in range(arguments.steps) for example in next(batches)]
        batches.close()
        return figures_of(ends, arguments, sum(lengths) / (len(lengths) * arguments.list_size))


def make_trainer(arguments: argparse.Namespace, folder: str) -> Any:
    from launch.compose import compose, instantiate
    from launch.training import make_trainer
    from trainers.run_directory import RunDirectory

    config = compose(overrides(arguments, folder))
    settings = instantiate(config)
    data, model = settings.data.build(), settings.model.build(settings.seed)
    trainer = make_trainer(settings, config, data, RunDirectory.open(config), model)
    trainer.evaluator = None
    return trainer


def overrides(arguments: argparse.Namespace, folder: str) -> list[str]:
    return [
        "+exp=reranker_contrastive",
        f"output_dir={folder}",
        "logger=none",
        f"model.max_length={arguments.max_length}",
        f"trainer.max_steps={arguments.steps}",
        f"trainer.save_every={arguments.steps + 1}",
        f"trainer.batch_size={arguments.batch_size}",
        f"trainer.list_size={arguments.list_size}",
    ]


def train_sentence_transformers(arguments: argparse.Namespace) -> dict[str, float]:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import LambdaLoss
    from transformers import TrainerCallback

    from models.resolve import resolve

    columns = lists_as_columns(arguments)
    folder = str(resolve("sentence-transformers/all-MiniLM-L6-v2"))
    model = CrossEncoder(folder, num_labels=1, max_length=arguments.max_length)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output:
        options = CrossEncoderTrainingArguments(
            output_dir=output,
            per_device_train_batch_size=arguments.batch_size,
            max_steps=arguments.steps,
            learning_rate=1e-4,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = CrossEncoderTrainer(
            model=model,
            args=options,
            train_dataset=Dataset.from_dict(columns),
            loss=LambdaLoss(model),
            callbacks=[Clock()],
        )
        trainer.train()
    return figures_of(ends, arguments, mean_tokens(model.tokenizer, columns, arguments.max_length))


def lists_as_columns(arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """The lists that plackett's loader gives, as texts: query, docs, labels."""
    with tempfile.TemporaryDirectory() as folder:
        loader = make_trainer(arguments, folder).loader
        batches = loader.iterate(0)
        examples = [example for _ in range(arguments.steps) for example in next(batches)]
        batches.close()
        return {
            "query": [loader.lists.queries[example.query_id] for example in examples],
            "docs": [[loader.lists.documents[name] for name in example.document_ids] for example in examples],
            "labels": [example.labels.tolist() for example in examples],
        }


def mean_tokens(tokenizer: Any, columns: dict[str, list[Any]], max_length: int) -> float:
    pairs = [(query, text) for query, texts in zip(columns["query"], columns["docs"], strict=True) for text in texts]
    rows = tokenizer(*map(list, zip(*pairs, strict=True)), truncation=True, max_length=max_length)["input_ids"]
    return sum(map(len, rows)) / len(rows)


def figures_of(ends: list[float], arguments: argparse.Namespace, tokens_per_row: float) -> dict[str, float]:
    from engines.memory import peak_memory_bytes

    steps = len(ends) - WARM_UP_STEPS
    rows_per_s = steps * arguments.batch_size * arguments.list_size / (ends[-1] - ends[WARM_UP_STEPS - 1])
    return {
        "rows_per_s": round(rows_per_s, 2),
        "share_of_peak": round(rows_per_s * training_flops(round(tokens_per_row)) / matmul_flops_per_s(), 3),
        "peak_memory_mib": round(peak_memory_bytes() / 2**20),
    }


def training_flops(tokens: int) -> float:
    """Floating-point operations of a forward and backward of one row of `tokens` tokens."""
    from torch.utils.flop_counter import FlopCounterMode

    from models.cross_encoder import CrossEncoderConfig

    model = CrossEncoderConfig(attention="eager").build(seed=0)
    with FlopCounterMode(display=False) as counter:
        ids = torch.ones(1, tokens, dtype=torch.int64)
        model(input_ids=ids, attention_mask=ids)["score"].sum().backward()
    return counter.get_total_flops()


def matmul_flops_per_s() -> float:
    matrix = torch.randn(MATMUL_SIZE, MATMUL_SIZE)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return 2 * MATMUL_SIZE**3 / min(times)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
