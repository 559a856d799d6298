"""Run the cases on some ranks of this machine, in a network of their own, and read what they report."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.scale.cases import CASES, write_texts

ROOT = Path(__file__).resolve().parents[2]


def measure(
    engine: str, ranks: int, folder: Path, *, steps: int, cases: list[str] | None = None
) -> list[dict[str, Any]]:
    """The records of the cases on `ranks` ranks with one thread each. Raises RuntimeError if a rank fails."""
    texts = folder / "texts.jsonl"
    if not texts.is_file():
        write_texts(texts)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    worker = ["-m", "benchmarks.scale.worker", engine, str(folder), str(steps), *(cases or CASES)]
    inside = f"ip link set lo up && exec {shlex.join([*launcher, *worker])}"
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    log = folder / f"{engine}-{ranks}.log"
    with log.open("w") as errors:
        command = ["unshare", "--net", "--map-root-user", "sh", "-c", inside]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    if done.returncode:
        raise RuntimeError(f"{engine} on {ranks} ranks failed: {log.read_text()[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
