"""Helpers of the benchmarks: a trainer, the clock, counted operations, the peak of the processor, and a report."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

SIDES = ("plackett", "sentence-transformers")
MATMUL_SIZE = 2048
COUNTED_LENGTHS = (8, 16, 24)  # tokens of the rows whose operations are counted

Figures = dict[str, Any]


def at_least_one(text: str) -> int:
    """A number of the command line that counts something."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return int(text)


def configured(overrides: Sequence[str]) -> Any:
    """The settings of a training run."""
    from launch.cli.compose import load

    return load(overrides)


def make_trainer(settings: Any, data: Any) -> Any:
    """Build plackett's trainer, in training mode and without evaluation."""
    from recipes.build import make_trainer
    from runs.directory import RunDirectory
    from runs.loggers.logger import NoLogger
    from runs.settings_tree import as_tree

    run, model = RunDirectory.open(as_tree(settings)), settings.model.build(settings.seed)
    trainer = make_trainer(settings, data, run, model, sets={}, logger=NoLogger())
    trainer.evaluator = None
    trainer.engine.model.train()
    return trainer


def fit(trainer: Any, on_step: Callable[[dict[str, Any]], None]) -> None:
    """Train. `on_step` is called with the statistics of each step."""
    step = trainer.train_step

    def watched_step(batch: Any) -> dict[str, Any]:
        statistics = step(batch)
        on_step(statistics)
        return statistics

    trainer.train_step = watched_step
    trainer.fit()


def watcher(on_step: Callable[[], None]) -> Any:
    """A callback for transformers' trainers that calls `on_step` at the end of each step."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            on_step()

    return Watcher()


def now() -> float:
    """Seconds, once the GPU (if there is one) has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class RowFlops:
    """The floating-point operations of a model for a row of n tokens: a polynomial of degree 2, by attention."""

    coefficients: tuple[float, float, float]  # of n^2, n and 1

    @classmethod
    def count(cls, model_config: Any, *, backward: bool) -> RowFlops:
        """Count those of single rows without padding, in the forward, and in the backward if it is asked for."""
        model = dataclasses.replace(model_config, attention="eager").build(seed=0)
        model.simplify_for_tracing()  # one row has nothing to pack, and a tensor of every token
        counts = [_counted(model, tokens, backward=backward) for tokens in COUNTED_LENGTHS]
        return cls(tuple(np.linalg.solve(np.vander(np.array(COUNTED_LENGTHS, dtype=float), 3), counts)))

    def of(self, lengths: Iterable[int]) -> float:
        """The operations of rows of these lengths."""
        return float(sum(np.polyval(self.coefficients, length) for length in lengths))


def _counted(model: Any, tokens: int, *, backward: bool) -> int:
    ids = torch.ones(1, tokens, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        output = next(iter(model(input_ids=ids, attention_mask=ids).values())).sum()
        if backward:
            output.backward()
    return counter.get_total_flops()


def matmul_peaks(size: int = MATMUL_SIZE) -> dict[str, float]:
    """The highest floating-point operations per second of ten fp32 products of large matrices [size, size], by the
    library that multiplies: "torch", as `a @ b` does, and "oneDNN", on CPUs where linear layers run by it."""
    from models.cpu.linear import linear, prefers_onednn

    matrix = torch.randn(size, size, device="cuda" if torch.cuda.is_available() else "cpu")
    products: dict[str, Callable[[], Any]] = {"torch": lambda: matrix @ matrix}
    if not matrix.is_cuda and prefers_onednn():
        products["oneDNN"] = lambda: linear(matrix, matrix, None)
    return {name: 2 * size**3 / _least_seconds(product) for name, product in products.items()}


def _least_seconds(product: Callable[[], Any]) -> float:
    times = []
    for _ in range(10):
        started = now()
        product()
        times.append(now() - started)
    return min(times)


def report(figures: dict[str, list[Figures]], rows: str = "rows") -> None:
    """Print a table of medians, and the ratio of the speeds in each pair of turns."""
    print(f"\n| median of turns | {rows}/s | tokens/s | share of the fp32 matmul peak | peak memory |")
    print("|---|---|---|---|---|")
    for side, turns in figures.items():
        names = ("rows_per_s", "tokens_per_s", "share_of_peak", "peak_memory_mib")
        speed, tokens, share, memory = (statistics.median(turn[name] for turn in turns) for name in names)
        print(f"| {side} | {speed:.1f} | {tokens:,.0f} | {share:.0%} | {memory:,.0f} MiB |")
    pairs = zip(*(figures[side] for side in SIDES), strict=True)
    ratios = sorted(ours["rows_per_s"] / theirs["rows_per_s"] for ours, theirs in pairs)
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nspeed, {' / '.join(SIDES)}: median {statistics.median(ratios):.2f} ({each})")
