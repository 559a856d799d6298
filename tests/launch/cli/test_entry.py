"""The entry file as a user runs it: alone and under torchrun, right and wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from launch.cli import errors

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("HYDRA_FULL_ERROR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_ERROR_FILE")
}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(folder: Path, *arguments: str, cwd: Path, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, str(folder / "main.py"), "--config-dir", str(folder / "conf"), *arguments]
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parents[3])])}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def error_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error")]


def test_a_run_leaves_nothing_of_hydras(stand_in_folder, tmp_path):
    (tmp_path / "data").mkdir()  # must not hide the package of that name
    done = start(stand_in_folder, "+exp=good", "tool.size=5", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "run_name=good size=5\n", "")
    assert [child.name for child in tmp_path.iterdir()] == ["data"]


def test_multirun_names_each_job_after_what_sets_it_apart(stand_in_folder, tmp_path):
    done = start(stand_in_folder, "-m", "+exp=good", "tool.size=5,6", "seed=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("run_name")]
    assert lines == ["run_name=good-tool.size=5 size=5", "run_name=good-tool.size=6 size=6"]


def test_what_hydra_writes_of_a_multirun_holds_no_secret(stand_in_folder, tmp_path):
    done = start(stand_in_folder, "-m", "tool.size=5,6", "tool.path=https://me:PASSWORD@host/", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.rglob("multirun.yaml")
    assert "https://***@host/" in file.read_text()
    assert "PASSWORD" not in file.read_text()


def test_cfg_shows_the_configuration(stand_in_folder, tmp_path):
    shown = start(stand_in_folder, "+exp=good", "--cfg", "job", "tool.size=5", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "  size: 5\n" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_multirun_over_nodes_and_lists_replaces_them(stand_in_folder, tmp_path):
    choices = "tool.inner={_target_:stand_in.Inner},[3]"
    done = start(stand_in_folder, "-m", "+exp=good", choices, cwd=tmp_path)
    assert "run_name=good-tool.inner={_target_:stand_in.Inner} size=4" in done.stdout, done.stderr
    assert done.stderr.splitlines() == ["error: tool.inner=[3] is not a node with _target_ (Inner)"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tool.wieght=2"], "error: tool.wieght is not an option: did you mean weight?"),
        (["--lr", "3"], "error: --lr is not a flag"),
        (["--cfg", "job", "tool.wieght=2"], "error: tool.wieght is not an option"),
        (["tool.path=memory"], "error: out of memory: lower trainer.kept_chunks, then trainer.token_budget"),
    ],
)
def test_a_mistake_is_one_line_and_a_failure(stand_in_folder, tmp_path, arguments, expected):
    done = start(stand_in_folder, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(expected)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("mistake", ["tool.wieght=2,3", "tool.wieght=2"])
def test_a_mistake_ends_a_multirun(stand_in_folder, tmp_path, mistake):
    done = start(stand_in_folder, "-m", mistake, cwd=tmp_path)
    assert done.returncode == 1
    assert [line[:40] for line in error_lines(done.stderr)] == ["error: tool.wieght is not an option: did"], done.stderr


def test_a_mistake_in_a_run_keeps_its_traceback_in_the_run_directory(stand_in_folder, tmp_path):
    done = start(stand_in_folder, "tool.path=mistake", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: corpus.jsonl:7 is not JSON (traceback: outputs/job/traceback.txt)\n"
    assert "raise ValueError" in (tmp_path / "outputs" / "job" / "traceback.txt").read_text()


def test_a_refused_command_leaves_nothing_in_the_run_directory(stand_in_folder, tmp_path):
    """Before it has started, the run there may be another's, perhaps another process trains in it."""
    done = start(stand_in_folder, "tool.path=refusal", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: corpus.jsonl:7 is not JSON\n")
    assert [child.name for child in (tmp_path / "outputs" / "job").iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "a/metrics.jsonl"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_explained(tmp_path, monkeypatch, error):
    monkeypatch.setattr(errors.process, "run_folder", tmp_path)
    line = errors.explain(error)
    assert line.startswith(f"a disk is full ({error}): free space, first on the disk of {tmp_path}; ")
    assert line.endswith("the same command starts again")
    assert not errors.explain(OSError(errno.EIO, "I/O error")).startswith("a disk")


def test_an_interruption_before_the_start_says_nothing_of_checkpoints(tmp_path, monkeypatch):
    for folder in (None, tmp_path):
        monkeypatch.setattr(errors, "process", errors.Process(run_folder=folder))
        (tmp_path / "summary.json").write_text("{}")
        (tmp_path / "checkpoints" / "step-000004").mkdir(parents=True, exist_ok=True)
        line = errors.explain(KeyboardInterrupt())
        assert line.endswith("the same command starts again")
        assert "checkpoint" not in line
    (tmp_path / "summary.json").unlink()
    assert errors.explain(KeyboardInterrupt()).endswith(
        "continues from " + str(tmp_path / "checkpoints" / "step-000004")
    )


def test_a_bug_keeps_its_traceback(stand_in_folder, tmp_path):
    done = start(stand_in_folder, "tool.path=bug", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("KeyError: 'a bug'\n")
    assert (tmp_path / "outputs" / "job" / "traceback.txt").read_text().endswith("KeyError: 'a bug'\n")


def test_ctrl_c_says_how_to_resume(stand_in_folder, tmp_path):
    done = start(stand_in_folder, "tool.path=interrupt", cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr == (
        "error: interrupted: the same command with resume=auto (the default) continues from "
        "outputs/job/checkpoints/step-000002\n"
    )


@pytest.mark.parametrize(("what", "status"), [("tracker", 0), ("tracker fails", 1)])
def test_a_tracker_that_hangs_does_not_hold_the_process(stand_in_folder, tmp_path, what, status):
    began = time.monotonic()
    done = start(stand_in_folder, f"tool.path={what}", cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert time.monotonic() - began < 45
    assert done.stdout.startswith("run_name=job")


def test_torchrun_shows_a_mistake_once_and_names_it_as_root_cause(stand_in_folder, tmp_path):
    done = start(stand_in_folder, "tool.wieght=2", cwd=tmp_path, launcher=TORCHRUN)
    assert done.returncode != 0
    lines = error_lines(done.stderr)
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: tool.wieght is not an option: did you mean weight?")
    assert lines[0] in done.stderr.split("Root Cause")[1]


def test_torchrun_shows_what_fails_on_another_rank_alone(stand_in_folder, tmp_path):
    done = start(stand_in_folder, "tool.path=rank1", cwd=tmp_path, launcher=TORCHRUN)
    assert done.returncode != 0
    assert error_lines(done.stderr) == ["error (on rank 1): only rank 1 fails"], done.stderr
    assert "error: only rank 1 fails" in done.stderr.split("Root Cause")[1]


def test_torchrun_shows_a_bugs_traceback_once(stand_in_folder, tmp_path):
    done = start(stand_in_folder, "tool.path=bug", cwd=tmp_path, launcher=TORCHRUN)
    before_summary = done.stderr.split("Root Cause")[0].split("FAILED")[0]
    assert before_summary.count("KeyError: 'a bug'") == 1, done.stderr


def test_the_error_file_has_torchruns_shape(stand_in_folder, tmp_path):
    error_file = tmp_path / "attempt_0" / "0" / "error.json"
    error_file.parent.mkdir(parents=True)
    command = [sys.executable, str(stand_in_folder / "main.py"), "sede=1"]
    environment = {**ENVIRONMENT, "TORCHELASTIC_ERROR_FILE": str(error_file)}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    assert "job.yaml is not in" in json.loads(error_file.read_text())["message"]["message"]
    assert "job.yaml is not in" in ProcessFailure(0, 1, 1, str(error_file)).message["message"]


@pytest.mark.parametrize("name", ["train", "evaluate", "rerank"])
def test_a_clone_that_is_not_installed_says_so(name):
    entry = Path(__file__).parents[3] / "launch" / f"{name}.py"
    done = subprocess.run([sys.executable, "-S", str(entry)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("run `pip install -e .` in the repository first\n")
    assert len(done.stderr.splitlines()) == 1
