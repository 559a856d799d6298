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
    """A stage whose checkpoints have so many bytes, and whose model has 5 MiB."""
    trainer = SimpleNamespace(keep_checkpoints=keep)
    parameters = SimpleNamespace(total=5 * MIB / 4)
    workload = SimpleNamespace(settings=SimpleNamespace(trainer=trainer), parameters=parameters)
    return SimpleNamespace(estimates=[SimpleNamespace(checkpoint=checkpoint)], workload=workload)


@pytest.mark.parametrize(
    ("free", "end"),
    [
        (480, "480.0 MiB are free"),
        (479, "479.0 MiB are free: too little: free some, or lower trainer.keep_checkpoints"),
    ],
)
def test_what_the_largest_run_leaves_is_compared_with_the_free_disk(
    free: int, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def usage(place: Path) -> Usage:
        asked.append(place)
        return Usage(free * MIB)

    monkeypatch.setattr("recipes.ablate.plan.shutil.disk_usage", usage)
    stages = [plan(20 * MIB, keep=2), plan(20 * MIB, keep=1)]  # 3 and 2, with the best of each
    line = disk_line(tmp_path / "not" / "yet", 4, 2, [[plan(10 * MIB, keep=2)], stages])
    assert line == f"disk: about 110.0 MiB a run, 440.0 MiB for 4 runs; {end}"
    assert asked == [tmp_path], "the folder is not made by a plan"
