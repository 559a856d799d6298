"""A short form of crash_test.py; docs/results.md has the results of the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_killed_runs_equal_the_uninterrupted_run(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_test.py")
    command = [sys.executable, str(script), "--engines", "torch", "--kills", "4"]
    command += ["--kinds", "grpo", "mixture", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "torch: 4 kills" in done.stdout
    assert "every run identical to the uninterrupted one, no checkpoint broken" in done.stdout
