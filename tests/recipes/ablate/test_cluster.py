"""Jobs by submitit: what runs on a node, how it stops and is queued again, and submitit's local executor."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.ablate import cluster
from recipes.ablate.cluster import Cluster, ClusterTask, rendezvous
from recipes.ablate.configurations import Configuration, Job

submitit = pytest.importorskip("submitit", reason="the extra `ablate` is not installed")

NODE = SimpleNamespace(node=0, num_nodes=1, job_id="7", hostnames=["here"])
SLEEPER = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('ready', flush=True)"
JOB = Job(Configuration.of("a", ()), 1)


@pytest.fixture
def task(tmp_path: Path) -> ClusterTask:
    return ClusterTask(["loss=nothing"], 1, None, tmp_path / "logs" / "a.log", tmp_path / "stop")


@pytest.fixture
def on_node(monkeypatch: pytest.MonkeyPatch):
    """A function that sets the code that runs in place of launch/train.py."""
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: NODE)
    monkeypatch.setattr(cluster, "POLL_S", 0.02)
    return lambda code: monkeypatch.setattr(cluster, "command_of", lambda *_, **__: [sys.executable, "-c", code])


def ready(task: ClusterTask) -> None:
    while not task.log.exists() or "ready" not in task.log.read_text():
        time.sleep(0.02)


def test_the_status_of_the_command_is_that_of_the_task(task, on_node):
    on_node("print('error: a is wrong'); import sys; sys.exit(1)")
    assert task() == 1
    assert task.log.read_text() == "error: a is wrong\n"


def test_a_file_stops_the_command_and_a_task_that_has_not_begun(task, on_node):
    on_node(f"{SLEEPER}; time.sleep(60)")

    def stop() -> None:
        ready(task)
        task.stop_file.touch()

    thread = threading.Thread(target=stop)
    thread.start()
    assert task() == 75
    thread.join()
    task.log.unlink()
    assert task() == 75
    assert not task.log.exists(), "not started"


def test_before_a_time_limit_the_command_ends_and_the_task_is_queued_again(task, on_node):
    on_node(f"{SLEEPER}; time.sleep(60)")
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(task()))
    thread.start()
    ready(task)
    again = task.checkpoint()
    thread.join()
    assert statuses == [75]
    assert (again.function.overrides, again.function.log) == (task.overrides, task.log)
    assert again.function._process is None


def test_the_ranks_of_several_nodes_meet_at_the_first():
    assert rendezvous(NODE) == []
    assert rendezvous(SimpleNamespace(num_nodes=2, job_id="12345_6", hostnames=["first", "second"])) == [
        "--nnodes=2",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=first:23456",
        "--rdzv_id=12345_6",
    ]


def made(folder: Path, task: ClusterTask, kind: str = "local", **parameters) -> Cluster:
    return Cluster(kind, folder, parameters, name="a", nodes=1, task=lambda job, stop_file: task)


def test_a_job_of_the_local_executor_fails_with_the_line_of_its_error(task, tmp_path: Path):
    process = made(tmp_path, task).start(JOB, 0)
    deadline = time.monotonic() + 120
    while (status := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status == 1
    assert process.error().startswith("loss=nothing is not a choice")


SLURM = {
    # It waits for the file `go`, and runs the script then, on this machine.
    "sbatch": """
echo submitted >> $SLURM_STAND_IN/log; id=$((100 + $(wc -l < $SLURM_STAND_IN/log)))
export SLURM_JOB_ID=$id SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1
wait_and_run() { for _ in {1..2000}; do [[ -e $SLURM_STAND_IN/go ]] && break; sleep 0.05; done; bash "$1"; }
wait_and_run "${@: -1}" > /dev/null 2>&1 < /dev/null &
echo "Submitted batch job $id"
""",
    "srun": 'while [[ $1 == --* ]]; do [[ $1 == *=* || $1 == --unbuffered ]] || shift; shift; done; exec "$@"\n',
    "sacct": 'echo "JobID|State|NodeList"; for id in 101 102; do echo "$id|RUNNING|here"; done\n',
    "scancel": 'echo "cancelled $@" >> $SLURM_STAND_IN/log\n',
}  # the commands of Slurm that submitit calls


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for Slurm, whose `log` has a line for each submission and cancellation."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in SLURM.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STAND_IN", str(folder))
    return folder


def test_a_job_of_slurm_is_taken_over_by_the_command_that_follows_a_killed_one(task, tmp_path: Path, slurm: Path):
    first = made(tmp_path, task, kind="slurm", slurm_partition="gpu").start(JOB, 0)
    assert first.poll() is None
    again = made(tmp_path, task, kind="slurm", slurm_partition="gpu").start(JOB, 0)
    assert again.poll() is None
    assert (slurm / "log").read_text() == "submitted\n"
    script = next((tmp_path / "submitit").glob("*.sh")).read_text()
    assert "--partition=gpu" in script
    assert f"--time={cluster.TIMEOUT_MIN}" in script
    (slurm / "go").touch()
    deadline = time.monotonic() + 120
    while (status := again.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status == 1
    assert again.error().startswith("loss=nothing is not a choice")
    made(tmp_path, task, kind="slurm").start(JOB, 0)
    assert (slurm / "log").read_text() == "submitted\nsubmitted\n", "that job has ended"


def test_what_the_cluster_refuses_is_one_line(task, tmp_path: Path):
    with pytest.raises(ValueError, match=r"cluster=slurm: .*slurm"):
        made(tmp_path, task, kind="slurm")
    with pytest.raises(ValueError, match=r"cluster=local: .*nonsense"):
        made(tmp_path, task, nonsense=1)
