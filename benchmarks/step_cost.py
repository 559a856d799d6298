"""Measure a GRPO step: memory for two list lengths, time for two numbers of sampled rankings, and the allocator.

    python benchmarks/step_cost.py memory         # peak memory, a list of 1,000 documents against one of 32
    python benchmarks/step_cost.py generations    # seconds per step, 256 rankings against 4
    python benchmarks/step_cost.py allocator      # seconds per step, with and without glibc keeping freed memory

Memory is the peak of a whole process, one for each list length, with a token budget for 16 documents. The timed steps
alternate between the two numbers of rankings on the same model and lists, or between processes with and without
`engines.memory.allocator.keep_freed_memory`. Medians are compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import configured, make_trainer

from trainers.source_losses import SourceLosses

MAX_LENGTH = 128
BUDGET = 16 * MAX_LENGTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "generations", "allocator"))
    parser.add_argument("--list-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep", choices=("yes", "no"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list_size:
        print(peak_memory_mib(arguments.list_size))
    elif arguments.keep:
        print(seconds_per_step(keep=arguments.keep == "yes"))
    elif arguments.what == "allocator":
        compare_allocators()
    elif arguments.what == "memory":
        compare_memory()
    else:
        compare_generations()


def compare_memory() -> None:
    peaks = {}
    for list_size in (32, 1000):
        peaks[list_size] = in_a_process("memory", "--list-size", str(list_size))
        print(f"list of {list_size}: peak {peaks[list_size]:.0f} MiB at a token budget of {BUDGET}", flush=True)
    print(f"ratio {peaks[1000] / peaks[32]:.3f}")


def peak_memory_mib(list_size: int) -> float:
    from engines.memory.allocator import keep_freed_memory, peak_memory_bytes

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = grpo_trainer(folder, f"trainer.list_size={list_size}", "trainer.batch_size=1")
        for _ in range(2):
            trainer.state.step += 1
            trainer.train_step(trainer.next_batch())
        assert len(trainer.batches.current.sequences) == list_size
    return peak_memory_bytes() / 2**20


def compare_generations() -> None:
    from engines.memory.allocator import keep_freed_memory

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = grpo_trainer(folder, "trainer.batch_size=4")
        losses = {number: dataclasses.replace(trainer.losses.shared, num_generations=number) for number in (4, 256)}
        seconds: dict[int, list[float]] = {number: [] for number in losses}
        for _ in range(12):
            trainer.state.step = 1
            batch = trainer.next_batch()
            for number, loss in losses.items():
                trainer.losses = SourceLosses(loss)
                started = time.perf_counter()
                trainer.train_step(batch)
                seconds[number].append(time.perf_counter() - started)
    medians = {number: statistics.median(times[2:]) for number, times in seconds.items()}
    for number, median in medians.items():
        print(f"{number} rankings a list: {median:.3f} s a step (4 lists of 8)")
    print(f"ratio {medians[256] / medians[4]:.3f}")


def compare_allocators() -> None:
    seconds: dict[str, list[float]] = {"yes": [], "no": []}
    for _ in range(3):
        for keep, times in seconds.items():
            times.append(in_a_process("allocator", "--keep", keep))
            print(f"freed memory kept: {keep}, {times[-1]:.3f} s a step", flush=True)
    print(f"ratio kept / not kept {statistics.median(seconds['yes']) / statistics.median(seconds['no']):.3f}")


def seconds_per_step(keep: bool) -> float:
    from engines.memory.allocator import keep_freed_memory

    if keep:
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = grpo_trainer(folder, "trainer.batch_size=4", "trainer.kept_chunks=4")
        seconds = []
        for _ in range(12):
            trainer.state.step += 1
            batch = trainer.next_batch()
            started = time.perf_counter()
            trainer.train_step(batch)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def in_a_process(*arguments: str) -> float:
    """Run this script with `arguments` in a separate process, and return the number that it prints."""
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def grpo_trainer(folder: str, *overrides: str) -> Any:
    common = ["+exp=reranker_grpo", f"output_dir={folder}", "logger=none", f"model.max_length={MAX_LENGTH}"]
    common += [f"trainer.token_budget={BUDGET}", "trainer.kept_chunks=1", "trainer.workers=0"]
    settings = configured([*common, *overrides])
    return make_trainer(settings, settings.data.build())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
