"""One process trains in a run directory; a killed one leaves it free."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runs import lock
from runs.lock import lock_run

LOCK = "import sys, time, pathlib; from runs.lock import lock_run; lock_run(pathlib.Path(sys.argv[1])); print('mine')"


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of `folder`."""
    code = f"{LOCK}; sys.stdout.flush(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_directory_in_use_is_refused_naming_who_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.2)
    process = holder(tmp_path / "run")
    with pytest.raises(
        ValueError, match=f"run is in use by process {process.pid} on .*: wait until it ends, or choose"
    ) as caught:
        lock_run(tmp_path / "run")
    assert "\n" not in str(caught.value)
    lock_run(tmp_path / "another")
    process.kill()
    process.communicate()
    lock_run(tmp_path / "run")
    assert (tmp_path / ".run.lock").read_text().startswith(f"process {os.getpid()} on")


def test_another_hosts_lock_is_waited_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.2)
    process = holder(tmp_path / "run")
    (tmp_path / ".run.lock").write_text("process 1 on another-host\n")
    monkeypatch.setattr(lock, "LEASE_S", 0.5)
    with pytest.raises(ValueError, match="in use by process 1 on another-host"):
        lock_run(tmp_path / "run")
    assert "run is locked by process 1 on another-host: waiting" in capsys.readouterr().err
    monkeypatch.setattr(lock, "LEASE_S", 60.0)
    threading.Timer(0.6, process.kill).start()
    lock_run(tmp_path / "run")
    process.communicate()


def test_a_process_may_come_back_and_keeps_others_out(tmp_path: Path) -> None:
    lock_run(tmp_path / "run")
    lock_run(tmp_path / "run")
    code = f"from runs import lock; lock.WAIT_S = 0; {LOCK}"
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert other.returncode == 1
    assert f"in use by process {os.getpid()}" in other.stderr


def test_a_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = f"{LOCK}; import os; os.fork() or time.sleep(30)"
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")])
    assert parent.wait(20) == 0  # its child sleeps on
    lock_run(tmp_path / "run")


def test_where_there_are_no_locks_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    lock_run(tmp_path / "run")
    assert "no lock on" in capsys.readouterr().err
    (tmp_path / ".other.lock").mkdir()
    lock_run(tmp_path / "other")
    assert ".other.lock (Is a directory)" in capsys.readouterr().err
