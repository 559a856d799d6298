"""The newest metrics and the notes of a training."""

from __future__ import annotations

import pytest

from trainers.training_progress import TrainingProgress


def test_the_line_has_the_newest_metrics() -> None:
    with TrainingProgress(2, 10) as progress:
        progress.move_to(5)
        progress.show({"loss": 0.123456, "grad_norm": 1.0, "rows_per_s": 200.0})
        assert progress.line().startswith("training: 5 of 10 steps, ")
        assert progress.line().endswith(" left, loss 0.123, rows/s 200")


def test_a_note_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(0, 10) as progress:
        for line in ("first", "second"):
            progress.note_once("idle ranks", line)
        progress.note_once("another subject", "third")
    assert capsys.readouterr().err.splitlines() == ["first", "third"]
