"""Measure steps on 1, 2 and 4 ranks of this machine, and compare them with the model of cost of launch/plan.py.

    python benchmarks/scaling.py measure --output RECORDS.jsonl            # some minutes for each engine and number
    python benchmarks/scaling.py predict --output RECORDS.jsonl            # fitted on 1 and 2 ranks, predicts 4
    python benchmarks/scaling.py parts --output RECORDS.jsonl              # what is received, part by part

Each rank has one thread. The ranks of a run are alone in a network of their own (`unshare`), whose bytes the kernel
counts. The rates are fitted to the time that the slowest rank computes in a step, and what is predicted is the time of
the step, which needs idle cores: on fewer cores than ranks these share them, and while one waits another computes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "predict", "parts"))
    parser.add_argument("--output", type=Path, required=True, help="FILE.jsonl of what was measured")
    parser.add_argument("--engines", default="torch,zero2")
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    from benchmarks.scale.cases import CASES
    from benchmarks.scale.measure import Job, records, start
    from benchmarks.scale.report import Predictions, parts, table

    with tempfile.TemporaryDirectory() as name:
        if arguments.what == "measure":
            for engine in arguments.engines.split(","):
                for ranks in map(int, arguments.ranks.split(",")):
                    job = Job([*CASES], engine, arguments.steps, Path(name))
                    found = records(job, start(job, ranks))
                    with arguments.output.open("a") as file:
                        file.writelines(json.dumps(record) + "\n" for record in found)
                    print(f"{engine} on {ranks} rank(s): {len(found)} runs", flush=True)
        else:
            found = [json.loads(line) for line in arguments.output.read_text().splitlines()]
            predictions = Predictions(Path(name))
            for engine in arguments.engines.split(","):
                own = [record for record in found if record["engine"] == engine]
                if arguments.what == "parts":
                    print("\n".join(parts(own, predictions)), flush=True)
                    continue
                lines = table(own, predictions, fitted=(1, 2))
                print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
