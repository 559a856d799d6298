"""Compare losses at equal budget: `python benchmarks/loss_ablation.py` trains each with each seed and prints a table.

Lists, steps and learning rate are the same for all; only the loss differs. A finished run is not repeated, so the
command continues where it was stopped. The starting model is scored once per seed.
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

ROOT = Path(__file__).resolve().parent.parent
LOSSES = [
    "bce",
    "rank_net",
    "softmax_cross_entropy",
    "list_mle",
    "lambda_rank",
    "ndcg_loss2pp",
    "approx_ndcg",
    "plackett_luce_grpo",
]
BUDGET = {
    "model.max_length": 128,
    "trainer.max_steps": 40,
    "trainer.batch_size": 4,
    "trainer.list_size": 8,
    "trainer.learning_rate": 2e-4,
    "trainer.eval_every": 40,
    "trainer.log_every": 10,
    "trainer.save_every": 1000,
    "eval.depth": 20,
    "eval.max_queries": 100,
    "eval.dev_max_queries": 30,
    "logger": "none",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=LOSSES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; if more than 1, each uses one thread")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/loss_ablation"))
    parser.add_argument("overrides", nargs="*", help="further settings key=value of every run")
    arguments = parser.parse_intermixed_args()
    runs = [(loss, seed) for seed in arguments.seeds for loss in arguments.losses]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        summaries = dict(zip(runs, pool.map(lambda run: summary_of(*run, arguments), runs), strict=True))
    print_table(summaries, arguments.losses, arguments.seeds)


def summary_of(loss: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """The summary of a run, which is trained unless an earlier call has finished it."""
    name = f"{loss}-{seed}"
    file = arguments.output_dir / name / "summary.json"
    if not file.is_file():
        trainer = "grpo" if loss == "plackett_luce_grpo" else "ranking"
        chosen = ["+exp=reranker_contrastive", f"loss={loss}", f"trainer={trainer}", f"seed={seed}", f"run_name={name}"]
        options = [*(f"{key}={value}" for key, value in BUDGET.items()), f"output_dir={arguments.output_dir}"]
        threads = {"OMP_NUM_THREADS": "1"} if arguments.jobs > 1 else {}
        command = [sys.executable, str(ROOT / "launch" / "train.py"), *chosen, *options, *arguments.overrides]
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        print(f"{name} done", file=sys.stderr, flush=True)
    return json.loads(file.read_text())


def print_table(summaries: dict[tuple[str, int], dict[str, float]], losses: list[str], seeds: list[int]) -> None:
    """Print mean and standard deviation over seeds of the test metric, the best loss first."""
    first = next(iter(summaries.values()))
    print(f"test {first['metric']}: first stage {first['first_stage']:.4f}; {len(seeds)} seeds\n")
    columns = ["loss", "before", "after, mean", "spread (std)", *(f"seed {seed}" for seed in seeds), "train s"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    rows = {loss: [summaries[loss, seed] for seed in seeds] for loss in losses}
    for loss, runs in sorted(rows.items(), key=lambda row: -statistics.mean(run["after"] for run in row[1])):
        after = [run["after"] for run in runs]
        spread = statistics.stdev(after) if len(after) > 1 else 0.0
        each = " | ".join(f"{value:.4f}" for value in after)
        before, seconds = (statistics.mean(run[key] for run in runs) for key in ("before", "seconds"))
        print(f"| {loss} | {before:.4f} | {statistics.mean(after):.4f} | {spread:.4f} | {each} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
