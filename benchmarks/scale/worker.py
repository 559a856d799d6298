"""One rank of a measured run, started by torchrun: python -m benchmarks.scale.worker ENGINE FOLDER STEPS CASE ...

Rank 0 prints one line of JSON for each case: what a step took and what it moved. The bytes are those of the kernel, of
the loopback interface of a network that holds the ranks alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.scale.cases import CASES, WARM_UP, settings_of
from benchmarks.side_by_side import make_trainer
from engines.distributed import process_group
from engines.distributed.collectives import gather_objects
from engines.memory.allocator import keep_freed_memory, return_freed_memory


def main() -> None:
    engine, folder, steps, names = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    keep_freed_memory()
    process_group.start(timeout_s=600)
    for name in names:
        figures = measure(engine, folder, CASES[name], steps)
        ranks = gather_objects(figures)
        if process_group.is_main():
            record = {"case": name, "engine": engine, "ranks": len(ranks), **joined(ranks)}
            print(json.dumps(record), flush=True)
        return_freed_memory()
    process_group.stop()


def measure(engine: str, folder: Path, overrides: list[str], steps: int) -> dict[str, Any]:
    """The figures of this rank: lists of one number per step."""
    from trainers.training_progress import TrainingProgress

    settings = settings_of(overrides, engine, folder)
    trainer = make_trainer(settings, settings.data.build())
    trainer.progress = TrainingProgress(0, WARM_UP + steps)
    figures: dict[str, Any] = {"wall_s": [], "cpu_s": [], "chunks": [], "rows": []}
    for step in range(1, WARM_UP + steps + 1):
        trainer.state.step = step
        batch = trainer.next_batch()
        process_group.barrier()
        wall, cpu, received = time.perf_counter(), time.process_time(), received_bytes()
        statistics = trainer.train_step(batch)
        process_group.barrier()
        if step <= WARM_UP:
            continue
        figures["wall_s"].append(time.perf_counter() - wall)
        figures["cpu_s"].append(time.process_time() - cpu)
        figures["chunks"].append(statistics["num_chunks"])
        figures["rows"].append(len(batch.sequences))
        figures.setdefault("bytes", []).append(received_bytes() - received)
    trainer.batches.close()
    return figures


def received_bytes() -> int:
    """The bytes that all ranks have received over the loopback interface."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise OSError("/proc/net/dev has no loopback interface")


def joined(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all ranks as one: medians of the steps' times, and the mean of their bytes, which vary with the
    number of chunks."""
    first = ranks[0]
    return {
        "wall_s": median(first["wall_s"]),
        "cpu_s": median([max(each) for each in zip(*(rank["cpu_s"] for rank in ranks), strict=True)]),
        "mean_cpu_s": median([sum(each) / len(ranks) for each in zip(*(rank["cpu_s"] for rank in ranks), strict=True)]),
        "bytes_per_rank": sum(first["bytes"]) / len(first["bytes"]) / len(ranks),
        "chunks": first["chunks"],
        "rows": first["rows"],
        "cores": len(os.sched_getaffinity(0)),
    }


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
