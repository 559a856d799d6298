"""One rank of a measured run, started by benchmarks/scale/measure.py: python -m benchmarks.scale.worker JOB

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

from benchmarks.scale.cases import CASES, SIDES, WARM_UP, settings_of
from benchmarks.side_by_side import make_trainer
from engines.distributed import process_group
from engines.distributed.collectives import gather_objects
from engines.memory.allocator import keep_freed_memory, return_freed_memory

Job = dict[str, Any]  # a `measure.Job`


def main() -> None:
    job: Job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    keep_freed_memory()
    process_group.start(timeout_s=600)
    for name in job["cases"]:
        ranks = gather_objects(measure(name, job))
        if process_group.is_main():
            record = {"case": name, "engine": job["engine"], "ranks": len(ranks), **joined(ranks)}
            print(json.dumps(record), flush=True)
        return_freed_memory()
    process_group.stop()


def measure(name: str, job: Job) -> dict[str, Any]:
    """The figures of this rank: lists of one number per step, and of all steps."""
    from trainers.training_progress import TrainingProgress

    settings = settings_of([*(CASES | SIDES)[name], *job["settings"]], job["engine"], Path(job["folder"]))
    trainer = make_trainer(settings, settings.data.build())
    trainer.progress = TrainingProgress(0, WARM_UP + job["steps"])
    figures: dict[str, Any] = {"wall_s": [], "cpu_s": [], "chunks": [], "rows": [], "bytes": [], "counted": []}
    begin = 0.0
    for step in range(1, WARM_UP + job["steps"] + 1):
        trainer.state.step = step
        batch = trainer.next_batch()
        process_group.barrier()
        if step == WARM_UP + 1:
            meet(job)
            begin = time.perf_counter()
        wall, cpu, received = time.perf_counter(), time.process_time(), received_bytes()
        statistics = trainer.train_step(batch)
        process_group.barrier()
        if step > WARM_UP:
            figures["wall_s"].append(time.perf_counter() - wall)
            figures["cpu_s"].append(time.process_time() - cpu)
            figures["chunks"].append(statistics["num_chunks"])
            figures["rows"].append(len(batch.sequences))
            figures["bytes"].append(received_bytes() - received)
            figures["counted"].append(counted_bytes(statistics))
    trainer.batches.close()
    return figures | {"total_s": time.perf_counter() - begin}


def meet(job: Job) -> None:
    """Wait until as many jobs are here as are timed side by side."""
    if job["meeting"] is None or not process_group.is_main():
        return
    folder = Path(job["meeting"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < job["jobs"]:
        time.sleep(0.001)


def counted_bytes(statistics: dict[str, Any]) -> dict[str, float]:
    """The bytes that this rank has received in a step by its statistics, by what they carry."""
    start, end = "traffic/", "_received_bytes"
    names = [name for name in statistics if name.startswith(start) and name.endswith(end)]
    return {name.removeprefix(start).removesuffix(end): statistics[name] for name in names}


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
    names = {name for of_step in first["counted"] for name in of_step}
    of_ranks = [of_step for rank in ranks for of_step in rank["counted"]]
    slowest = [max(each) for each in zip(*(rank["cpu_s"] for rank in ranks), strict=True)]
    return {
        "wall_s": median(first["wall_s"]),
        "cpu_s": median(slowest),
        "bytes_per_rank": sum(first["bytes"]) / len(first["bytes"]) / len(ranks),
        "counted": {name: sum(each.get(name, 0.0) for each in of_ranks) / len(of_ranks) for name in sorted(names)},
        "rows_per_s": sum(first["rows"]) / first["total_s"],
        "chunks": first["chunks"],
        "rows": first["rows"],
        "cores": len(os.sched_getaffinity(0)),
    }


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
