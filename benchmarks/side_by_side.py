"""Helpers of the benchmarks: runs in separate processes, a trainer, the clock and figures."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

SIDES = ("plackett", "sentence-transformers")
WARM_UP_STEPS = 3
MATMUL_SIZE = 2048

Figures = dict[str, Any]


def in_a_process(*arguments: str) -> Figures:
    """Run this script again with `arguments` after its own, and return the JSON in the last line that it prints."""
    finished = subprocess.run([sys.executable, *sys.argv, *arguments], capture_output=True, text=True)
    if finished.returncode:
        sys.exit(finished.stderr)
    return json.loads(finished.stdout.strip().splitlines()[-1])


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


def fit(trainer: Any) -> tuple[list[float], list[float]]:
    """Train. Returns the time at the end of each step, and its loss."""
    ends: list[float] = []
    losses: list[float] = []
    step = trainer.train_step

    def timed_step(batch: Any) -> dict[str, Any]:
        statistics = step(batch)
        ends.append(now())
        losses.append(statistics["loss"])
        return statistics

    trainer.train_step = timed_step
    trainer.fit()
    return ends, losses


def clock(ends: list[float]) -> Any:
    """A callback for transformers' trainers that records the time at the end of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())

    return Clock()


def now() -> float:
    """Seconds, once the GPU (if there is one) has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def figures_of(ends: list[float], *, rows_per_step: int, tokens_per_row: float, flops_per_row: float) -> Figures:
    """The speed after the first WARM_UP_STEPS, in unpadded tokens. Call it in the measured process."""
    from engines.memory.allocator import peak_memory_bytes

    peak_memory = peak_memory_bytes()
    rows_per_s = (len(ends) - WARM_UP_STEPS) * rows_per_step / (ends[-1] - ends[WARM_UP_STEPS - 1])
    return {
        "rows_per_s": round(rows_per_s, 2),
        "tokens_per_s": round(rows_per_s * tokens_per_row),
        "share_of_peak": round(rows_per_s * flops_per_row / matmul_flops_per_s(), 3),
        "peak_memory_mib": round(peak_memory / 2**20),
    }


def training_flops(model_config: Any, tokens: int) -> float:
    """The floating-point operations of a forward and backward of one row of `tokens` tokens."""
    from torch.utils.flop_counter import FlopCounterMode

    model = dataclasses.replace(model_config, attention="eager").build(seed=0)
    with FlopCounterMode(display=False) as counter:
        ids = torch.ones(1, tokens, dtype=torch.int64)
        next(iter(model(input_ids=ids, attention_mask=ids).values())).sum().backward()
    return counter.get_total_flops()


def matmul_flops_per_s() -> float:
    """The highest floating-point operations per second of ten large fp32 matrix products."""
    matrix = torch.randn(MATMUL_SIZE, MATMUL_SIZE, device="cuda" if torch.cuda.is_available() else "cpu")
    times = []
    for _ in range(10):
        started = now()
        matrix @ matrix
        times.append(now() - started)
    return 2 * MATMUL_SIZE**3 / min(times)


def report(figures: dict[str, list[Figures]], rows: str = "rows") -> None:
    """Print a table of medians, and the ratio of the speeds in each pair of consecutive runs."""
    print(f"\n| median of runs | {rows}/s | tokens/s | share of the fp32 matmul peak | peak memory |")
    print("|---|---|---|---|---|")
    for side, runs in figures.items():
        names = ("rows_per_s", "tokens_per_s", "share_of_peak", "peak_memory_mib")
        speed, tokens, share, memory = (statistics.median(run[name] for run in runs) for name in names)
        print(f"| {side} | {speed:.1f} | {tokens:,.0f} | {share:.0%} | {memory:,.0f} MiB |")
    pairs = zip(*(figures[side] for side in SIDES), strict=True)
    ratios = sorted(ours["rows_per_s"] / theirs["rows_per_s"] for ours, theirs in pairs)
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nspeed, {' / '.join(SIDES)}: median {statistics.median(ratios):.2f} ({each})")
