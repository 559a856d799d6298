"""Measure what work that is not done twice saves: texts that occur several times in a step, and texts tokenised before.

    python benchmarks/repeated_work.py [--pairs 5] [--batch-size 16] [OVERRIDE ...]

First part: a whole training step of an embedding model (InfoNCE, with hard negatives) on batches of which a share of
the texts is repeated, with `trainer.merge_repeats` and without, in turns. The time should fall as the tokens that are
computed do. Second part: the training lists of the loader, tokenised, put into the cache of tokens, and read from it,
in one process, beside the tokens per second of the step. Options of the run may follow, such as data=beir data.path=X.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from side_by_side import configured, make_trainer

SHARES = (0.0, 0.1, 0.5)
NUM_LISTS = 200  # of the second part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = configured(
            [
                *("+exp=embedder_infonce", f"output_dir={folder}", "logger=none", "trainer.workers=0"),
                *(f"trainer.batch_size={arguments.batch_size}", "trainer.kept_chunks=1000"),
                *("trainer.cache_tokens=false", *arguments.overrides),
            ]
        )
        trainer = make_trainer(settings, settings.data.build())
        steps = [time_steps(trainer, share, arguments.pairs) for share in SHARES]
        tokens = time_tokens(trainer.batches.loader.lists, Path(folder))
    for line in steps:
        print(
            f"{line['repeated_share']:.0%} of the tokens repeated: {line['computed']:.3f} of the tokens computed, "
            f"{line['time']:.3f} of the time (pairs {line['lowest']:.3f} to {line['highest']:.3f})"
        )
    for name, value in tokens.items():
        print(f"{name}: {value:,.0f} tokens/s of one process")
    print(json.dumps({"steps": steps, "tokens_per_s": tokens}))


def time_steps(trainer: Any, share: float, pairs: int) -> dict[str, float]:
    """Times of a step with repeats merged, divided by those of the step that runs every row, in turns."""
    batch = with_repeats(trainer.batches.for_step(1), share)
    trainer.state.step = 1
    config = trainer.config

    def step(merge: bool) -> tuple[float, dict[str, Any]]:
        trainer.config = replace(config, merge_repeats=merge)
        started = time.perf_counter()
        statistics = trainer.train_step(batch)
        return time.perf_counter() - started, statistics

    from trainers.training_progress import TrainingProgress

    trainer.progress = TrainingProgress(0, trainer.max_steps)
    step(True)  # warm-up
    measured = [(step(True), step(False)) for _ in range(pairs)]
    ratios = [merged[0] / whole[0] for merged, whole in measured]
    (_, merged), (_, whole) = measured[-1]
    return {
        "repeated_share": merged["repeated_share"],
        "computed": 1 - merged["repeated_share"],
        "time": median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "tokens_per_s": whole["tokens_per_s"],
    }


def with_repeats(batch: Any, share: float) -> Any:
    """The batch with that share of its documents replaced by others of it, so that each of these occurs twice."""
    examples, rows = batch.examples, batch.sequences
    starts = np.cumsum([0, *(len(example.sequences) for example in examples)])
    documents = np.setdiff1d(np.arange(len(rows)), starts[:-1])
    source, order = np.arange(len(rows)), np.random.default_rng(0).permutation(documents)
    number = round(share * len(documents))
    source[order[:number]] = order[len(order) - number :]
    parts = [rows.select(source[start:stop]) for start, stop in pairwise(starts)]
    return replace(batch, examples=[replace(each, sequences=part) for each, part in zip(examples, parts, strict=True)])


def time_tokens(lists: Any, folder: Path) -> dict[str, float]:
    """Tokens per second of processor time: tokenised, tokenised and stored, read from the cache."""
    from data.store.token_cache import open_token_cache

    tokenizer = lists.tokenizer
    options = {"limit": tokenizer.max_length, "vocabulary_size": tokenizer.vocabulary_size}
    memory = open_token_cache(folder, "benchmark", tokenizer.token_key, **options)
    assert memory is not None

    def speed(make: Callable[[], int]) -> float:
        started = time.process_time()
        return make() / (time.process_time() - started)

    def make() -> int:
        indices = range(min(NUM_LISTS, len(lists)))
        return sum(int(lists[0, index].sequences.lengths.sum()) for index in indices)

    found = {"tokenised": speed(make)}
    lists.tokenizer = tokenizer.with_memory(memory)
    found["tokenised and stored"] = speed(make)
    found["read from the cache"] = speed(make)
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
