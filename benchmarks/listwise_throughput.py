"""Compare the speed of listwise training with sentence-transformers' CrossEncoder and LambdaLoss.

    python benchmarks/listwise_throughput.py [--runs 5] [--steps 20] [--batch-size 4] [--list-size 8] [--max-length 128]

Both train the same model, with its dropout, on the same lists of the docstring collection, with the same maximal length
and batch size (sentence-transformers shuffles the lists). Every run has a separate process, and the two alternate.
plackett uses the softmax cross-entropy: on lists of 8 the loss itself takes almost no time on either side.

Rows are (query, document) pairs; the first steps are not counted. The share of peak is the floating-point operations
per second of the model, counted on unpadded rows, divided by those of a large fp32 matmul in the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import (
    SIDES,
    Figures,
    clock,
    configured,
    figures_of,
    fit,
    in_a_process,
    make_trainer,
    report,
    training_flops,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("runs", 5), ("steps", 20), ("batch-size", 4), ("list-size", 8), ("max-length", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run = train_plackett if arguments.side == "plackett" else train_sentence_transformers
        print(json.dumps(run(arguments)))
        return
    figures: dict[str, list[Figures]] = {side: [] for side in SIDES}
    for number in range(arguments.runs):
        for side in SIDES:
            figures[side].append(in_a_process("--side", side))
            print(f"run {number + 1} {side}: {figures[side][-1]}", flush=True)
    report(figures)


def train_plackett(arguments: argparse.Namespace) -> Figures:
    from engines.memory.allocator import keep_freed_memory

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = plackett_trainer(arguments, folder)
        ends, _ = fit(trainer)
        batches = trainer.loader.iterate(0)
        lengths = [int(example.sequences.lengths.sum()) for _ in range(arguments.steps) for example in next(batches)]
        batches.close()
        return speed(ends, arguments, sum(lengths) / (len(lengths) * arguments.list_size))


def plackett_trainer(arguments: argparse.Namespace, folder: str) -> Any:
    settings = configured(overrides(arguments, folder))
    return make_trainer(settings, settings.data.build())


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


def train_sentence_transformers(arguments: argparse.Namespace) -> Figures:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import LambdaLoss

    from models.loading.resolve import resolve

    columns = lists_as_columns(arguments)
    folder = str(resolve("sentence-transformers/all-MiniLM-L6-v2"))
    model = CrossEncoder(folder, num_labels=1, max_length=arguments.max_length)
    ends: list[float] = []
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
            callbacks=[clock(ends)],
        )
        trainer.train()
    return speed(ends, arguments, mean_tokens(model.tokenizer, columns, arguments.max_length))


def lists_as_columns(arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """The lists of plackett's loader as texts, in the columns query, docs and labels."""
    with tempfile.TemporaryDirectory() as folder:
        loader = plackett_trainer(arguments, folder).loader
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


def speed(ends: list[float], arguments: argparse.Namespace, tokens_per_row: float) -> Figures:
    from models.cross_encoder import CrossEncoderConfig

    return figures_of(
        ends,
        rows_per_step=arguments.batch_size * arguments.list_size,
        tokens_per_row=tokens_per_row,
        flops_per_row=training_flops(CrossEncoderConfig(), round(tokens_per_row)),
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
