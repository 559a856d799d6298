"""What a long loop shows in a log."""

from __future__ import annotations

from itertools import count

import pytest

from inference import progress_lines
from inference.progress_lines import Progress, show_progress


def test_a_line_now_and_then_with_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys):
    seconds = count(0, 20)
    monkeypatch.setattr(progress_lines.time, "monotonic", lambda: next(seconds))
    assert list(show_progress(range(5), "scoring", 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 2 of 5 batches, about 60 s left".replace("60 s", "1 min"),
        "scoring: 4 of 5 batches, about 20 s left",
    ]


def test_what_was_there_before_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch, capsys):
    seconds = count(0, 100)
    monkeypatch.setattr(progress_lines.time, "monotonic", lambda: next(seconds))
    progress = Progress("encoding", 1000, "texts", done=800)
    progress.advance(0)
    progress.advance(20)
    progress.advance(500)
    assert capsys.readouterr().err == "encoding: 820 of 1,000 texts, about 30 min left\n"
