"""Run cases on some ranks of this machine, in a network of their own, and read what they report."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scale.cases import write_texts

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """Cases that one process, or one group of ranks, runs one after the other."""

    cases: Sequence[str]
    engine: str
    steps: int
    folder: Path  # of its own: texts, runs, log
    settings: Sequence[str] = ()  # further ones of all cases
    meeting: Path | None = None  # where jobs that are timed side by side wait for each other
    jobs: int = 1  # that meet there


def start(job: Job, ranks: int) -> subprocess.Popen[str]:
    """Start a job on `ranks` ranks with one thread each."""
    job.folder.mkdir(parents=True, exist_ok=True)
    if not (job.folder / "texts.jsonl").is_file():
        write_texts(job.folder / "texts.jsonl")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    launcher = launcher if ranks > 1 else [sys.executable]
    words = {
        "engine": job.engine,
        "folder": str(job.folder),
        "steps": job.steps,
        "cases": list(job.cases),
        "settings": list(job.settings),
        "meeting": None if job.meeting is None else str(job.meeting),
        "jobs": job.jobs,
    }
    worker = [*launcher, "-m", "benchmarks.scale.worker", json.dumps(words)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = ["unshare", "--net", "--map-root-user", "sh", "-c", f"ip link set lo up && exec {shlex.join(worker)}"]
    with (job.folder / "log").open("w") as errors:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)


def records(job: Job, process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Wait for a job. Returns a record for each case. Raises RuntimeError if it fails."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{job.engine}, {', '.join(job.cases)}: {(job.folder / 'log').read_text()[-3000:]}")
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]
