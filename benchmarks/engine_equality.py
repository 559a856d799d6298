"""Compare every engine on 2 ranks with one process, step by step, for a GRPO and a supervised experiment.

    python benchmarks/engine_equality.py [--steps 20] [key=value ...]

Each engine runs `torchrun --nproc_per_node 2 launch/train.py` with the same seed and global batch as one `python
launch/train.py`, with SGD. It prints the largest differences over the steps, relative to the larger of 1 and the value.
tests/trainers/test_ranks.py also compares the final weights, on a tiny model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("torch", "zero0", "zero1", "zero2", "zero3")
COMPARED = ("loss", "grad_norm", "score_checksum", "reward_mean")
COMMON = [
    "trainer.optimizer=sgd",
    "trainer.learning_rate=0.05",
    "trainer.batch_size=3",
    "trainer.list_size=5",
    "trainer.token_budget=256",
    "trainer.kept_chunks=1",
    "data.lists.random_fraction=0",
    "model.max_length=64",
    "eval.dev_max_queries=4",
    "eval.max_queries=4",
    "eval.depth=5",
    "logger=none",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = [*COMMON, f"output_dir={folder}", f"trainer.max_steps={arguments.steps}", *arguments.overrides]
        print(f"{'experiment':20} {'engine':6} " + " ".join(f"{name:>14}" for name in COMPARED))
        for experiment in ("reranker_grpo", "reranker_contrastive"):
            one = run([sys.executable], experiment, "one", settings)
            for engine in ENGINES:
                torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
                two = run(torchrun, experiment, engine, [f"engine={engine}", *settings])
                values = " ".join(f"{value:14.1e}" for value in differences(one, two))
                print(f"{experiment:20} {engine:6} {values}", flush=True)


def run(launcher: list[str], experiment: str, name: str, overrides: list[str]) -> Path:
    """Run one command and return its run directory."""
    run_name = f"{experiment}-{name}"
    command = [*launcher, "launch/train.py", f"+exp={experiment}", f"run_name={run_name}", *overrides]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    (folder,) = (override.removeprefix("output_dir=") for override in overrides if override.startswith("output_dir="))
    return Path(folder) / run_name


def differences(one: Path, two: Path) -> list[float]:
    """The largest relative difference of each compared value over the steps."""
    steps = list(zip(train_lines(one), train_lines(two), strict=True))
    return [
        max((relative(first[name], second[name]) for first, second in steps if name in first), default=float("nan"))
        for name in COMPARED
    ]


def train_lines(folder: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == "train"]


def relative(first: float, second: float) -> float:
    return abs(first - second) / max(1.0, abs(first))


if __name__ == "__main__":
    main()
