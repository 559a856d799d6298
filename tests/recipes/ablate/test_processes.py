"""Processes of jobs: their command and variables, signals, the line of an error, and the death of their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.ablate import processes
from recipes.ablate.processes import LocalProcess, command_of, environment_of, error_line, killing_signal
from runs.source_tree import ROOT

REPORTS_SIGTERM = """
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("stopped")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def wait_for(condition, limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def group_is_alive(leader: int) -> bool:
    """Whether a process of the group is left that is no zombie."""
    found = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()]
    return any(group == str(leader) and not state.startswith("Z") for group, state in rows)


def ready(log: Path) -> bool:
    return log.exists() and "ready" in log.read_text()


def test_a_run_of_several_ranks_is_started_by_torchrun():
    assert command_of(["a=1"], ranks=1, config_dir="own")[1:] == [
        str(ROOT / "launch" / "train.py"),
        "--config-dir",
        "own",
        "a=1",
    ]
    several = command_of(["a=1"], ranks=2, config_dir=None)
    assert several[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.mark.parametrize(
    ("slot", "jobs", "ranks", "gpus", "visible"),
    [
        (0, 1, 1, ["0", "1"], None),  # alone it may see all
        (1, 2, 2, ["0", "1", "2", "3"], "2,3"),
        (2, 3, 1, ["0", "1"], "0"),  # fewer GPUs than jobs: they are shared
        (1, 2, 1, [], None),
    ],
)
def test_jobs_that_run_together_share_cores_and_gpus(monkeypatch, slot, jobs, ranks, gpus, visible):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "num_cores", lambda: 8)
    variables = environment_of(slot, jobs=jobs, ranks=ranks, gpus=gpus)
    assert variables.get("CUDA_VISIBLE_DEVICES") == visible
    assert variables.get("OMP_NUM_THREADS") == (str(8 // (jobs * ranks)) if jobs > 1 else None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in environment_of(slot, jobs=jobs, ranks=ranks, gpus=gpus)


def test_the_line_of_an_error_is_that_of_the_last_start(tmp_path: Path):
    log = tmp_path / "log"
    first = "error: an old one\n"
    said = "loading\rerror (on rank 1): data x: no train split (traceback: outputs/a/traceback.txt)\n"
    log.write_text(first + said + "E1 torch: Root Cause\n")
    assert error_line(log, len(first)) == "data x: no train split"
    log.write_text("Traceback:\n  File x\nKeyError: 'a'\nsome words at the end\n")
    assert error_line(log) == "KeyError: 'a'"
    log.write_text("Segmentation fault\n")
    assert error_line(log) == "Segmentation fault"
    log.write_text("")
    assert error_line(log) == "it wrote nothing"


def test_a_process_is_asked_to_stop_and_its_output_is_appended(tmp_path: Path):
    log, note = tmp_path / "logs" / "a.log", tmp_path / "note"
    log.parent.mkdir()
    log.write_text("from before\n")
    process = LocalProcess([sys.executable, "-c", REPORTS_SIGTERM, str(note)], log, {})
    wait_for(lambda: ready(log))
    assert process.poll() is None
    process.stop()
    wait_for(lambda: process.poll() is not None)
    assert (process.poll(), note.read_text()) == (75, "stopped")
    assert log.read_text() == "from before\nready\n"


def test_variables_of_one_run_are_not_passed_on(tmp_path: Path, monkeypatch):
    for name in ("WANDB_RUN_ID", "WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "x")
    code = "import os; print(sorted(name for name in os.environ if name.startswith('WANDB_')))"
    process = LocalProcess([sys.executable, "-c", code], tmp_path / "a.log", {"A": "b"})
    wait_for(lambda: process.poll() is not None)
    assert (tmp_path / "a.log").read_text() == "['WANDB_PROJECT']\n"


KILLED_RANK = "import os, signal; os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGKILL)"


def test_a_rank_that_is_killed_is_told_from_one_that_fails(tmp_path: Path):
    (tmp_path / "rank.py").write_text(KILLED_RANK)
    command = command_of([], ranks=2, config_dir=None)
    log = tmp_path / "a.log"
    failed = "Root Cause (first observed failure):\n  rank : 0\n  exitcode  : 1 (pid: 1)\n"
    log.write_text(failed)  # of an earlier start
    process = LocalProcess([*command[:-1], str(tmp_path / "rank.py")], log, {})
    wait_for(lambda: process.poll() is not None, 60)
    assert process.poll() == -signal.SIGKILL
    log.write_text(log.read_text() + failed)
    assert killing_signal(log) == 0


def test_a_marker_says_that_torchruns_ranks_were_preempted(tmp_path: Path):
    code = "import os, pathlib, sys; pathlib.Path(os.environ['PLACKETT_PREEMPTED_FILE']).touch(); sys.exit(1)"
    process = LocalProcess([sys.executable, "-c", code], tmp_path / "a.log", {})
    found = []
    wait_for(lambda: (found.append(process.poll()) or found[-1]) is not None)
    assert found[-1] == 75


def test_kill_ends_the_process_and_its_children(tmp_path: Path):
    process = LocalProcess(["bash", "-c", "sleep 60 & echo ready; wait"], tmp_path / "a.log", {})
    wait_for(lambda: ready(tmp_path / "a.log"))
    process.kill()
    assert process.poll() == -signal.SIGKILL
    wait_for(lambda: not group_is_alive(process._process.pid))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a signal at the parent's death is Linux's")
def test_a_process_gets_sigterm_if_the_command_is_killed(tmp_path: Path):
    log, note = tmp_path / "a.log", tmp_path / "note"
    parent = f"""
import sys, time
from pathlib import Path
from recipes.ablate.processes import LocalProcess
LocalProcess([sys.executable, "-c", {REPORTS_SIGTERM!r}, {str(note)!r}], Path({str(log)!r}), {{}})
time.sleep(60)
"""
    command = subprocess.Popen([sys.executable, "-c", parent], env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_for(lambda: ready(log), 60)
    command.send_signal(signal.SIGKILL)
    command.wait()
    wait_for(note.exists)
