"""The bar and the notes of a run."""

from __future__ import annotations

import pytest

from trainers.progress import Progress


def test_the_bar_moves_forwards_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(2, 10)
    progress.move_to(5, {"loss": 0.123456, "grad_norm": 1.0})
    assert progress.bar.n == 5
    assert progress.bar.postfix == "loss=0.123"
    progress.move_to(3)
    assert progress.bar.n == 3
    progress.close()
    assert "3/10" in capsys.readouterr().err


def test_a_note_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(0, 10)
    for line in ("first", "second"):
        progress.note_once("idle ranks", line)
    progress.note_once("another subject", "third")
    progress.close()
    printed = capsys.readouterr().err
    assert [printed.count(line) for line in ("first", "second", "third")] == [1, 0, 1]
