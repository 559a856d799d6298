"""Compare the three stages with subsets of them: `python benchmarks/three_stages.py` trains and prints a table.

The variants of `+exp=reranker_three_stage`, each with each seed: all stages, all but one, each stage alone, and GRPO
alone for as many updates as the three stages have together. Shared stages are trained once: `stages=[grpo,preference]`
continues from the model after GRPO of the full run, since a stage depends only on its settings and on the model
that it starts from (tests/recipes/test_stages.py). A finished run is not repeated: the command continues where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WHOLE = ("grpo", "contrastive", "preference")
# Run -> its stages, and the run and stage that it starts from.
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, str] | None]] = {
    "whole": (WHOLE, None),
    "contrastive": (("contrastive",), None),
    "preference": (("preference",), None),
    "long_grpo": (("grpo",), None),
    "without_contrastive": (("preference",), ("whole", "1-grpo")),
    "without_grpo": (("preference",), ("contrastive", "1-contrastive")),
}
# Row of the table -> the run, and the number of the stage after which the metric is read.
ROWS = {
    "grpo": ("whole", 1),
    "contrastive": ("contrastive", 1),
    "preference": ("preference", 1),
    "grpo, updates of all three": ("long_grpo", 1),
    "grpo, contrastive": ("whole", 2),
    "grpo, preference": ("without_contrastive", 1),
    "contrastive, preference": ("without_grpo", 1),
    "grpo, contrastive, preference": ("whole", 3),
}
Runs = dict[tuple[str, int], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; if more than 1, each uses one thread")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/three_stages"))
    parser.add_argument("overrides", nargs="*", help="further settings key=value of every run")
    arguments = parser.parse_intermixed_args()
    summaries: Runs = {}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for after in (False, True):  # runs that start from another run's model come last
            runs = [
                (part, seed)
                for part in arguments.parts
                for seed in arguments.seeds
                if (PARTS[part][1] is not None) == after
            ]
            summaries |= zip(runs, pool.map(lambda run: summary_of(*run, arguments), runs), strict=True)
    print_table(summaries, arguments.seeds)


def summary_of(part: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The summary of a run, which is trained unless an earlier call has finished it."""
    name = f"{part}-{seed}"
    file = arguments.output_dir / name / "summary.json"
    if not file.is_file():
        stages, start = PARTS[part]
        options = [f"stages=[{','.join(stages)}]", f"seed={seed}", f"run_name={name}", "logger=none"]
        options += [f"output_dir={arguments.output_dir}"]
        if start is not None:
            run, stage = start
            options.append(f"model.name_or_path={arguments.output_dir / f'{run}-{seed}' / 'stages' / stage / 'model'}")
        if part == "long_grpo":
            options.append(f"stage.grpo.trainer.max_steps={updates_of_all(arguments.overrides)}")
        entry = [sys.executable, str(ROOT / "launch" / "train.py"), "+exp=reranker_three_stage"]
        threads = {"OMP_NUM_THREADS": "1"} if arguments.jobs > 1 else {}
        command = [*entry, *arguments.overrides, *options]
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        print(f"{name} done", file=sys.stderr, flush=True)
    return json.loads(file.read_text())


def updates_of_all(overrides: list[str]) -> int:
    """The number of updates of the three stages together."""
    from launch.cli.compose import compose

    stages = compose(["+exp=reranker_three_stage", *overrides]).stage
    return sum(stages[name].trainer.max_steps for name in WHOLE)


def print_table(summaries: Runs, seeds: list[int]) -> None:
    """Print the test metric after each sequence of stages: mean and standard deviation over seeds, and each seed."""
    first = next(iter(summaries.values()))
    print(f"test {first['metric']}: first stage {first['first_stage']:.4f}; {len(seeds)} seeds\n")
    columns = ["stages", "updates", "mean", "spread (std)", *(f"seed {seed}" for seed in seeds), "train s"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    wholes = [summaries["whole", seed] for seed in seeds if ("whole", seed) in summaries]
    if len(wholes) == len(seeds):
        print(row("none (a fresh head)", 0, [whole["before"] for whole in wholes], 0.0))
    for name, (part, number) in ROWS.items():
        if all((part, seed) in summaries for seed in seeds):
            ends = [summaries[part, seed]["stages"][:number] for seed in seeds]
            trained = [[*start_of(summaries, part, seed), *stages] for seed, stages in zip(seeds, ends, strict=True)]
            seconds = statistics.mean(sum(stage["seconds"] for stage in stages) for stages in trained)
            updates = sum(stage["steps"] for stage in trained[0])
            print(row(name, updates, [stages[-1]["metric"] for stages in ends], seconds))
    unbeaten = [
        f"{part}-{seed}: {stage['name']}"
        for (part, seed), run in summaries.items()
        for stage in run["stages"]
        if stage["best_step"] == 0
    ]
    print(f"\nstages that returned their starting model: {', '.join(unbeaten) or 'none'}")


def start_of(summaries: Runs, part: str, seed: int) -> list[dict[str, Any]]:
    """The earlier stages of the model that a part starts from."""
    start = PARTS[part][1]
    return summaries[start[0], seed]["stages"][:1] if start else []


def row(name: str, updates: int, values: list[float], seconds: float) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    each = " | ".join(f"{value:.4f}" for value in values)
    return f"| {name} | {updates} | {statistics.mean(values):.4f} | {spread:.4f} | {each} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
