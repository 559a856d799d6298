"""Measure memory and speed of contrastive training for several batch sizes. Memory must not grow with the batch.

    python benchmarks/large_batch.py                  # 64, 256, 1,024 and 4,096 texts in a step
    python benchmarks/large_batch.py 64 4096 --steps 1

A batch of N texts has N/2 queries and one relevant document for each; every document is a negative for all other
queries. The settings are those of `+exp=embedder_large_batch`: MiniLM, docstrings cut to 32 tokens, a token budget of
32 such texts, and chunks are recomputed. The steps are those of the trainer.

Every batch size runs in a separate process, whose total peak is measured (on the CPU with Python and its libraries, the
data and AdamW's state). The texts per second are those of the last step. The exit status is 1 if the largest batch
takes more than 1.2 times the memory of the smallest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import configured, make_trainer

TOKENS = 32  # per text, at most
TEXTS_PER_CHUNK = 32
LIMIT = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[64, 256, 1024, 4096], metavar="TEXTS")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # measure in this process
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(run(arguments.sizes[0], arguments.steps)))
    else:
        compare(sorted(arguments.sizes), arguments.steps)


def compare(sizes: list[int], steps: int) -> None:
    print("| texts | chunks | peak memory | times the smallest | texts/s |\n|---|---|---|---|---|")
    peaks = []
    for size in sizes:
        result = in_a_process(size, steps)
        peaks.append(result["peak_bytes"])
        print(
            f"| {size:,} | {result['num_chunks']} | {peaks[-1] / 2**20:,.0f} MiB | {peaks[-1] / peaks[0]:.2f} "
            f"| {result['texts_per_s']:.1f} |",
            flush=True,
        )
    if peaks[-1] > LIMIT * peaks[0]:
        sys.exit(f"the largest batch takes {peaks[-1] / peaks[0]:.2f} times the smallest's memory (limit {LIMIT})")


def in_a_process(size: int, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(size), "--steps", str(steps), "--alone"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def run(size: int, steps: int) -> dict[str, Any]:
    from engines.memory.allocator import keep_freed_memory, peak_memory_bytes

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = embedder_trainer(folder, size)
        for _ in range(steps):
            trainer.state.step += 1
            batch = trainer.next_batch()
            assert len(batch.sequences) == size
            started = time.perf_counter()
            statistics = trainer.train_step(batch)
            seconds = time.perf_counter() - started
    return {
        "peak_bytes": peak_memory_bytes(),
        "num_chunks": statistics["num_chunks"],
        "texts_per_s": size / seconds,
    }


def embedder_trainer(folder: str, size: int) -> Any:
    settings = configured(
        [
            "+exp=embedder_large_batch",
            f"output_dir={folder}",
            "logger=none",
            f"model.max_length={TOKENS}",
            f"trainer.batch_size={size // 2}",
            "trainer.list_size=1",
            f"trainer.token_budget={TEXTS_PER_CHUNK * TOKENS}",
            "trainer.workers=0",
        ]
    )
    return make_trainer(settings, settings.data.build())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
