"""What the plan of an ablation says of the disk."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.ablate.plan import disk_line

Usage = namedtuple("Usage", ["free"])
MIB = 2**20


def plan(checkpoint: float, keep: int) -> Any:
    """A stage whose checkpoints have so many bytes."""
    trainer = SimpleNamespace(keep_checkpoints=keep)
    workload = SimpleNamespace(settings=SimpleNamespace(trainer=trainer))
    return SimpleNamespace(estimates=[SimpleNamespace(checkpoint=checkpoint)], workload=workload)


@pytest.mark.parametrize(
    ("free", "end"),
    [
        (400, "400.0 MiB are free"),
        (399, "399.0 MiB are free: too little: free some, or lower trainer.keep_checkpoints"),
    ],
)
def test_the_checkpoints_of_the_largest_run_are_compared_with_the_free_disk(
    free: int, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def usage(place: Path) -> Usage:
        asked.append(place)
        return Usage(free * MIB)

    monkeypatch.setattr("recipes.ablate.plan.shutil.disk_usage", usage)
    stages = [plan(20 * MIB, keep=2), plan(20 * MIB, keep=1)]  # 3 and 2, with the best of each
    line = disk_line(tmp_path / "not" / "yet", 4, [[plan(10 * MIB, keep=2)], stages])
    assert line == f"disk: at most 100.0 MiB of checkpoints a run, 400.0 MiB of 4 runs; {end}"
    assert asked == [tmp_path], "the folder is not made by a plan"
