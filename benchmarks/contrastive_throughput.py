"""Compare contrastive training with sentence-transformers' SentenceTransformerTrainer (MultipleNegativesRankingLoss).

    python benchmarks/contrastive_throughput.py                                       # speed and memory
    python benchmarks/contrastive_throughput.py --quality --data FOLDER --steps 40    # test nDCG@10 after training

Both use one configuration (`+exp=embedder_infonce`: MiniLM with its dropout). They train on the same triples with one
hard negative each, in the same order and batches, with the same AdamW, learning rates and clipping, in fp32, and
tokenise in the training process. Every run has a separate process, the two alternate, and the first steps are not
timed.

The remaining differences belong to the systems. plackett puts texts of similar length into a chunk;
sentence-transformers pads the queries to the longest query, and positives and negatives together to the longest of
them. plackett sets glibc to keep freed memory. plackett masks duplicates; no batch has any unless a note says so.

With --quality plackett's evaluator measures both models after the last step; no checkpoint is selected.
`model.dropout=0` gives equal losses up to rounding ("losses" in the files), which shows that the conditions are equal.
A finished run is kept in the output directory and not repeated. Overrides of data, trainer, model.name_or_path,
model.dropout or loss.temperature must come before --seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import (
    SIDES,
    WARM_UP_STEPS,
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

METRIC = "nDCG@10"
COLUMNS = ("anchor", "positive", "negative")


def main() -> None:
    arguments = parse()
    if arguments.job:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(JOBS[arguments.job](arguments, folder)))
    elif arguments.quality:
        compare_quality(arguments)
    elif arguments.steps <= WARM_UP_STEPS:
        sys.exit(f"--steps {arguments.steps} must be above {WARM_UP_STEPS}, the steps that are not timed")
    else:
        compare_speed(arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("runs", 5), ("steps", 20), ("batch-size", 16), ("max-length", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quality", action="store_true", help="measure the trained models instead of the speed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="for --quality")
    parser.add_argument("--data", help="a folder in BEIR's format (default: the docstrings)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/contrastive_throughput"))
    parser.add_argument("overrides", nargs="*", help="further key=value for both")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)  # the task of this process
    parser.add_argument("--seed", type=int, default=42, help=argparse.SUPPRESS)
    return parser.parse_intermixed_args()


def compare_speed(arguments: argparse.Namespace) -> None:
    prepare_triples(arguments, arguments.seed)
    figures: dict[str, list[Figures]] = {side: [] for side in SIDES}
    for number in range(arguments.runs):
        for side in SIDES:
            figures[side].append(cached(f"speed-{number + 1}-{side}", side, arguments.seed, arguments))
    report(figures, rows="texts")


def compare_quality(arguments: argparse.Namespace) -> None:
    """Print mean and standard deviation over seeds of the test metric after the last step."""
    start = cached("quality-start", "start", arguments.seeds[0], arguments)
    figures: dict[str, list[Figures]] = {side: [] for side in SIDES}
    for seed in arguments.seeds:
        prepare_triples(arguments, seed)
        for side in SIDES:
            figures[side].append(cached(f"quality-{seed}-{side}", side, seed, arguments))
    print(f"\n| test {METRIC} | mean | spread (std) | " + " | ".join(f"seed {seed}" for seed in arguments.seeds) + " |")
    print("|---|---|---|" + "---|" * len(arguments.seeds))
    print(f"| before training | {start[METRIC]:.4f} | | " + " | ".join("" for _ in arguments.seeds) + " |")
    for side, runs in figures.items():
        values = [run[METRIC] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = " | ".join(f"{value:.4f}" for value in values)
        print(f"| {side} | {statistics.mean(values):.4f} | {spread:.4f} | {each} |")


def prepare_triples(arguments: argparse.Namespace, seed: int) -> None:
    """Make the training data of one seed. Prints a note if a batch repeats a text, which only plackett masks."""
    triples = cached(triples_name(arguments, seed), "triples", seed, arguments)
    if triples["duplicates"]:
        print(f"note: seed {seed}: {triples['duplicates']} repeated texts in all batches together", flush=True)


def triples_name(arguments: argparse.Namespace, seed: int) -> str:
    return f"{'quality' if arguments.quality else 'speed'}-triples-{seed}"


def cached(name: str, job: str, seed: int, arguments: argparse.Namespace) -> Figures:
    """The result of a job: that of an earlier call, or the job is run in a separate process."""
    file = arguments.output_dir / f"{name}.json"
    settings = overrides(arguments, "")
    if file.is_file():
        result = json.loads(file.read_text())
        if result["settings"] != settings:
            sys.exit(f"{file} has other settings ({' '.join(result['settings'])}): choose another --output-dir")
        return result
    started = time.perf_counter()
    result = {"settings": settings, **in_a_process("--job", job, "--seed", str(seed))}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result))
    shown = {key: value for key, value in result.items() if isinstance(value, int | float)}
    print(f"{name} ({time.perf_counter() - started:.0f} s): {shown}", flush=True)
    return result


def overrides(arguments: argparse.Namespace, folder: str) -> list[str]:
    return [
        "+exp=embedder_infonce",
        *(("data=beir", f"data.path={arguments.data}") if arguments.data else ()),
        f"model.max_length={arguments.max_length}",
        f"trainer.max_steps={arguments.steps}",
        f"trainer.save_every={arguments.steps + 1}",
        f"trainer.batch_size={arguments.batch_size}",
        "trainer.workers=0",
        "engine.precision=fp32",
        "logger=none",
        *arguments.overrides,
        *((f"output_dir={folder}", f"seed={arguments.seed}") if folder else ()),
    ]


def triples_only(data: Any) -> Any:
    """Restrict the collection so that each training list has one relevant and one irrelevant document.

    Other relevant documents are removed from the candidates, and queries without a candidate are removed.
    """
    train = data.split("train")
    candidates = {
        query: [(name, score) for name, score in ranked if not train.qrels.get(query, {}).get(name)]
        for query, ranked in train.candidates.items()
    }
    queries = {query: text for query, text in train.queries.items() if candidates[query]}
    train = dataclasses.replace(train, queries=queries, candidates=candidates)
    return dataclasses.replace(data, splits=data.splits | {"train": train})


def make_triples(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The batches of plackett's loader, concatenated, as columns of texts."""
    from data.batch import ListBatch

    settings = configured(overrides(arguments, folder))
    loader = make_trainer(settings, triples_only(settings.data.build())).loader
    batches = loader.iterate(0)
    loaded = [ListBatch(number, next(batches)) for number in range(arguments.steps)]
    examples = [example for batch in loaded for example in batch.examples]
    assert all(sorted(example.labels > 0) == [False, True] for example in examples)
    negative_first = [sorted(zip(e.labels, e.document_ids, strict=True)) for e in examples]
    texts = loader.lists.documents
    timed = [batch.sequences.lengths for batch in loaded[WARM_UP_STEPS:] or loaded]
    tokens_per_row = float(sum(lengths.sum() for lengths in timed) / sum(map(len, timed)))
    return {
        "anchor": [loader.lists.queries[example.query_id] for example in examples],
        "positive": [texts[name] for _, (_, name) in negative_first],
        "negative": [texts[name] for (_, name), _ in negative_first],
        "duplicates": sum(batch.num_duplicates for batch in loaded),
        "tokens_per_row": tokens_per_row,
        "flops_per_row": training_flops(settings.model, round(tokens_per_row)),
    }


def train_plackett(arguments: argparse.Namespace, folder: str) -> Figures:
    from engines.memory.allocator import keep_freed_memory

    keep_freed_memory()
    settings = configured(overrides(arguments, folder))
    data = triples_only(settings.data.build())
    trainer = make_trainer(settings, data)
    ends, losses = fit(trainer)
    if arguments.quality:
        return {**test_metrics(settings, data, trainer.engine.model), "losses": losses}
    return {**speed(ends, arguments), "losses": losses}


def train_sentence_transformers(arguments: argparse.Namespace, folder: str) -> Figures:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    from models.loading.resolve import resolve

    settings = configured(overrides(arguments, folder))
    options = settings.trainer
    model = SentenceTransformer(str(resolve(settings.model.name_or_path)))
    model.max_seq_length = settings.model.max_length
    set_dropout(model, settings.model.dropout)
    optimizer = options.optimizer_options().build(model)
    ends: list[float] = []
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=folder,
            seed=settings.seed,
            per_device_train_batch_size=options.batch_size,
            max_steps=options.max_steps,
            max_grad_norm=options.max_grad_norm,
            batch_sampler=in_order,
            logging_steps=options.log_every,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({name: load_triples(arguments)[name] for name in COLUMNS}),
        loss=MultipleNegativesRankingLoss(model, scale=1 / settings.loss.temperature),
        optimizers=(optimizer, options.make_schedule().build(optimizer)),
        callbacks=[clock(ends)],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not arguments.quality:
        return {**speed(ends, arguments), "losses": losses}
    model.save_pretrained(f"{folder}/trained", create_model_card=False)
    trained = dataclasses.replace(settings.model, name_or_path=f"{folder}/trained").build(settings.seed)
    return {**test_metrics(settings, settings.data.build(), trained), "losses": losses}


def in_order(dataset: Any, **options: Any) -> Any:
    """A batch sampler that keeps the order of the rows."""
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    return DefaultBatchSampler(SequentialSampler(dataset), **options)


def set_dropout(model: Any, probability: float | None) -> None:
    """Set the probability of every dropout layer; None keeps that of the pretrained model."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout) and probability is not None:
            module.p = probability


def load_triples(arguments: argparse.Namespace) -> dict[str, Any]:
    return json.loads((arguments.output_dir / f"{triples_name(arguments, arguments.seed)}.json").read_text())


def speed(ends: list[float], arguments: argparse.Namespace) -> Figures:
    triples = load_triples(arguments)
    per_row = {name: triples[name] for name in ("tokens_per_row", "flops_per_row")}
    return figures_of(ends, rows_per_step=len(COLUMNS) * arguments.batch_size, **per_row)


def measure_start(arguments: argparse.Namespace, folder: str) -> Figures:
    """The test metrics of the model before training."""
    settings = configured(overrides(arguments, folder))
    return test_metrics(settings, settings.data.build(), settings.model.build(settings.seed))


def test_metrics(settings: Any, data: Any, model: Any) -> Figures:
    """The metrics of plackett's evaluator on the test split."""
    from evaluation.evaluator import Prompts
    from inference.runner import ModuleRunner

    prompts = Prompts.of(data)
    test = settings.eval.build(data.split("test"), data.documents, model.tokenizer, prompts=prompts)
    return test.evaluate(ModuleRunner(model, next(model.parameters()).device)).metrics.mean


JOBS: dict[str, Callable[[argparse.Namespace, str], Figures]] = {
    "triples": make_triples,
    "start": measure_start,
    SIDES[0]: train_plackett,
    SIDES[1]: train_sentence_transformers,
}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
