"""Compare one run on two ranks with two runs of half its batch side by side, which exchange nothing: one thread each.

    python benchmarks/two_ranks.py                                         # torch and zero2, on two idle cores
    python benchmarks/two_ranks.py --engines zero2 --rounds 5 engine.coalesce=false

The sides take turns. Printed are the rows per second of each, and their ratio in each round: 1 if nothing is lost to
the exchange, to waiting for each other, and to what every rank computes of the whole step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

CASES = ("embedder", "reranker", "large embedder", "large reranker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="torch,zero2")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("settings", nargs="*", help="further settings of all runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for engine in arguments.engines.split(","):
            for case in arguments.cases.split(","):
                compare(case, engine, Path(name), arguments)


def compare(case: str, engine: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Run the rounds of one case on one engine, and print its line."""
    from benchmarks.scale.measure import Job, records, start

    speeds: dict[str, list[float]] = {"together": [], "apart": []}
    for number in range(arguments.rounds):
        for side in sorted(speeds, reverse=number % 2 == 1):
            own = folder / f"{case} {engine} {side} {number}"
            common: Any = {"cases": [f"{case}, {side}"], "engine": engine, "steps": arguments.steps}
            common["settings"] = arguments.settings
            if side == "together":
                jobs = [Job(**common, folder=own)]
            else:
                jobs = [Job(**common, folder=own / f"run {run}", meeting=own / "meeting", jobs=2) for run in range(2)]
            started = [start(job, ranks=2 // len(jobs)) for job in jobs]
            found = [records(job, process) for job, process in zip(jobs, started, strict=True)]
            speeds[side].append(sum(record["rows_per_s"] for [record] in found))
    ratios = [one / other for one, other in zip(speeds["together"], speeds["apart"], strict=True)]
    together, apart = (statistics.median(speeds[side]) for side in ("together", "apart"))
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(
        f"{case}, {engine}: two ranks {together:.1f} rows/s, two runs {apart:.1f} rows/s, "
        f"ratio {statistics.median(ratios):.3f} ({each})",
        flush=True,
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
