"""The short form of crash_test.py, which docs/results.md shows at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_killed_runs_end_as_if_nobody_had_killed_them(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_test.py")
    command = [sys.executable, str(script), "--engines", "torch", "--kills", "4"]
    command += ["--kinds", "grpo", "mixture", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "torch: 4 kills" in done.stdout
    assert "every run identical to the uninterrupted one, no checkpoint broken" in done.stdout
