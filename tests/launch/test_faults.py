"""Two ranks under torchrun, as a cluster treats them: killed and restarted, told to stop, and started again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from engines.distributed.preemption import REQUEUE
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from recipes.training_run import train

ROOT = Path(__file__).parents[2]
STEPS = 40
SETTINGS = ["+exp=reranker_grpo", f"trainer.max_steps={STEPS}", "trainer.eval_every=10", "trainer.save_every=7"]
TIMES = {"seconds", "rows_per_s", "tokens_per_s"}


def train_here(overrides: list[str]) -> None:
    train(load(overrides))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, without times."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [
        {name: value for name, value in record.items() if name not in TIMES and not name.startswith("traffic/")}
        for record in records
    ]


@contextmanager
def launched(overrides: list[str], log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun with two ranks, by node.sh; its output goes to `log`. What still runs at the end is killed."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_ERROR_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = ["bash", str(ROOT / "launch" / "cluster" / "node.sh"), "--standalone", "--nproc_per_node=2"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options, str(ROOT / "launch" / "train.py"), *overrides],
            env={**environment, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            for started in (*ranks_of(process), *children(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(started, signal.SIGKILL)
            process.wait()


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def ranks_of(launcher: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of the ranks, in their order: the children of torchrun."""
    return [rank for torchrun in children(launcher.pid) for rank in children(torchrun)]


def wait_for(step: int, run: Path, launcher: subprocess.Popen[bytes], timeout_s: float = 200.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(line["step"] >= step for line in metrics_of(run)):
        assert launcher.poll() is None, f"ended with {launcher.returncode} before step {step}"
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.01)


@pytest.mark.timeout(600)
def test_killed_restarted_preempted_and_resumed_is_as_undisturbed(
    tiny_overrides: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    settings = {name: [*SETTINGS, *tiny_overrides(tmp_path / name)] for name in ("whole", "disturbed")}
    run_ranks(train_here, 2, settings["whole"])
    run = tmp_path / "disturbed" / "outputs" / "reranker_grpo"
    kill_at, stop_at = random.randint(8, 18), random.randint(22, 34)
    log = tmp_path / "log"

    # resume=none begins anew once: torchrun's restart goes on with what was begun.
    with launched([*settings["disturbed"], "resume=none"], log, "--max-restarts=1") as launcher:
        wait_for(kill_at, run, launcher)
        os.kill(ranks_of(launcher)[1], signal.SIGKILL)
        wait_for(stop_at, run, launcher)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(150) == REQUEUE, log.read_text()
    output = log.read_text()
    assert re.search(r"error: rank 1 \(.+, process \d+\), last at step \d+, died or is cut off; the same", output), (
        output
    )
    assert f"resuming {run} from step" in output
    assert "preempted by SIGTERM at step" in output
    assert not (run / "summary.json").exists()
    stopped = metrics_of(run)[-1]["step"]
    assert (run / "checkpoints" / f"step-{stopped:06d}").is_dir(), "it stopped at a step boundary, with a checkpoint"

    with launched(settings["disturbed"], log) as launcher:
        assert launcher.wait(200) == 0, log.read_text()
    assert f"resuming {run} from step {stopped}" in log.read_text()
    assert metrics_of(run) == metrics_of(tmp_path / "whole" / "outputs" / "reranker_grpo"), (kill_at, stop_at)
