"""A short form of crash_test.py; docs/results.md has the results of the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("engine", "kinds"), [("torch", ["grpo", "mixture", "refreshed"]), ("zero2", ["refreshed", "solved"])]
)
def test_killed_runs_equal_the_uninterrupted_run(engine: str, kinds: list[str], tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_test.py")
    kills = len(kinds)
    command = [sys.executable, str(script), "--engines", engine, "--kills", str(kills)]
    command += ["--kinds", *kinds, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{engine}: {kills} kills" in done.stdout
    assert "every run identical to the uninterrupted one, no checkpoint broken" in done.stdout
