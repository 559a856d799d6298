"""What long steps show: lines in a log file, a bar on a terminal, and nothing on stdout."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import re
import struct
import termios
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from data import progress
from data.progress import LogHandler, Progress, making, show_progress, write

Clock = Callable[[float], None]


class FakeTerminal(io.StringIO):
    """A stderr that is a terminal of 80 columns."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """The lines that a person sees."""
        lines, column = [""], 0
        for part in re.split(r"(\r|\n|\x1b\[K)", self.getvalue()):
            if part == "\r":
                column = 0
            elif part == "\n":
                lines, column = [*lines, ""], 0
            elif part == "\x1b[K":
                lines[-1] = lines[-1][:column]
            else:
                lines[-1] = lines[-1][:column] + part + lines[-1][column + len(part) :]
                column += len(part)
        return lines


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that a test moves: `wait(seconds)`."""
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> FakeTerminal:
    terminal = FakeTerminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=terminal))  # pytest sets sys.stderr before a test
    monkeypatch.delenv("TERM", raising=False)
    return terminal


def slowly(items: range, wait: Clock, seconds: float, what: str = "scoring", unit: str = "batches") -> None:
    """Go through the items, each of which takes so long."""
    for _ in show_progress(items, what, len(items), unit):
        wait(seconds)


def test_a_log_has_a_line_every_30_s(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    slowly(range(1000), wait, 0.125)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "scoring: 240 of 1,000 batches, 8.0/s, about 2 min left",
        "scoring: 480 of 1,000 batches, 8.0/s, about 65 s left",
        "scoring: 720 of 1,000 batches, 8.0/s, about 35 s left",
        "scoring: 960 of 1,000 batches, 8.0/s, about 5 s left",
    ]


def test_the_interval_of_lines_can_be_set(
    wait: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 5.0)
    slowly(range(3), wait, 5)
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 1 of 3 batches, 5.0 s each, about 10 s left",
        "scoring: 2 of 3 batches, 5.0 s each, about 5 s left",
    ]


def test_a_short_step_shows_nothing(
    wait: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 1.0)
    slowly(range(29), wait, 0.1)
    assert capsys.readouterr() == ("", "")


def test_a_short_step_shows_nothing_on_a_terminal(wait: Clock, screen: FakeTerminal) -> None:
    slowly(range(29), wait, 0.1)
    assert screen.getvalue() == ""


def test_a_step_of_unknown_length_has_a_count_and_a_rate(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    rows: Iterator[int] = iter(range(40_000))
    for _ in show_progress(rows, "reading rows", unit="rows"):
        wait(2**-10)
    assert capsys.readouterr().err == "reading rows: 30,720 rows, 1,024/s\n"


def test_what_was_done_before_does_not_count_as_speed(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("encoding", 1000, "texts", done=800) as step:
        wait(100)
        step.advance(20)
        wait(100)
        step.advance(500)  # the last round may count more than there are
    assert capsys.readouterr().err == "encoding: 820 of 1,000 texts, 5.0 s each, about 15 min left\n"


def test_paused_time_is_in_neither_rate_nor_time_left(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training", 100, "steps") as step:
        for number in range(1, 41):
            wait(1)
            step.move_to(number)
            with step.paused(), step.paused():
                wait(0 if number % 10 else 500)
    assert capsys.readouterr().err == "training: 30 of 100 steps, 1.0/s, about 70 s left\n"


def test_steps_that_are_made_again_count_once_more(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training", 100, "steps") as step:
        for last in (20, 30):
            while step.done < last:
                wait(1)
                step.advance()
            step.move_to(10)  # the weights of step 10 are loaded
    assert capsys.readouterr().err == "training: 20 of 100 steps, 1.0/s, about 80 s left\n"


def test_a_title_names_the_steps_around(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("test before training"):
        for _ in show_progress("abc", "data set", 3, "data sets"):
            slowly(range(40), wait, 1)
    assert capsys.readouterr().err.splitlines() == [
        "test before training, data set 1/3, scoring: 30 of 40 batches, 1.0/s, about 10 s left",
        "test before training, data set: 1 of 3 data sets, 40.0 s each, about 80 s left",
        "test before training, data set 2/3, scoring: 30 of 40 batches, 1.0/s, about 10 s left",
        "test before training, data set: 2 of 3 data sets, 40.0 s each, about 40 s left",
        "test before training, data set 3/3, scoring: 30 of 40 batches, 1.0/s, about 10 s left",
    ]


def test_a_terminal_has_a_bar_with_the_time_left(wait: Clock, screen: FakeTerminal) -> None:
    with Progress("encoding", 100, "texts") as step:
        for _ in range(50):
            wait(1)
            step.advance()
        (bar,) = screen.screen
        assert re.fullmatch(r"encoding:  50%\|█+. +\| 50/100 texts \[00:50<00:50, 1\.0/s\]", bar), bar
        assert len(bar) == 79
    assert screen.screen == [""]


def test_the_bar_of_the_training_comes_back(wait: Clock, screen: FakeTerminal) -> None:
    with Progress("training", 10, "steps") as training:
        for _ in range(5):
            wait(1)
            training.advance()
        with training.paused(), Progress("dev at step 5"):
            for number in show_progress(range(9), "scoring", 9):
                wait(1)
                if number == 5:
                    write("warning: a line")
                    assert screen.screen[0] == "warning: a line"
                    assert screen.screen[1].startswith("dev at step 5, scoring:  56%")
        assert screen.screen[0] == "warning: a line"
        assert screen.screen[1].startswith("training:  50%")
        assert "5/10 steps [00:05<00:05, 1.0/s]" in screen.screen[1]
    assert screen.screen == ["warning: a line", ""]


def test_a_log_record_stands_above_the_bar(wait: Clock, screen: FakeTerminal) -> None:
    with Progress("mining", 10, "groups") as step:
        wait(5)
        step.advance()
        LogHandler().emit(logging.makeLogRecord({"msg": "note: %d texts", "args": (3,)}))
        assert screen.screen[0] == "note: 3 texts"
        assert screen.screen[1].startswith("mining:  10%")


def test_the_bar_is_as_wide_as_a_pseudo_terminal(wait: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = os.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 61, 0, 0))
    with os.fdopen(there, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.delenv("TERM", raising=False)
        with Progress("encoding", 100, "texts") as step:
            wait(5)
            step.advance()
        shown = b""
        while not shown.endswith(b"\r\x1b[K"):  # what is written arrives in parts
            shown += os.read(here, 10_000)
    os.close(here)
    bar, end, after = shown.decode().partition("\x1b[K")
    assert (len(bar), end, after) == (1 + 60, "\x1b[K", "\r\x1b[K")
    assert bar.startswith("\rencoding:   1%|")


def test_a_narrow_terminal_is_not_overrun(wait: Clock, screen: FakeTerminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "width", lambda: 30)
    for total in (100, None):
        with Progress("a step with a long title that says much", total, "texts") as step:
            wait(5)
            step.advance()
            assert 0 < len(screen.screen[-1]) <= 29


def test_only_rank_0_shows_its_steps(
    wait: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    slowly(range(10), wait, 10)
    write("a line")
    assert capsys.readouterr().err == ""
    with making():  # the others, rank 0 among them, wait for it
        slowly(range(5), wait, 10)
    assert capsys.readouterr().err == "scoring: 3 of 5 batches, 10.0 s each, about 20 s left\n"


def test_a_step_that_fails_leaves_no_bar(wait: Clock, screen: FakeTerminal) -> None:
    def fail() -> None:
        for number in show_progress(range(10), "scoring", 10):
            wait(5)
            assert number < 3

    with pytest.raises(AssertionError):
        fail()
    assert "scoring:  30%" in screen.getvalue()
    assert screen.screen == [""]
    assert progress.terminal.steps == []


def test_a_forked_process_has_no_steps():
    with Progress("training", 10):
        child = os.fork()
        if child == 0:
            os._exit(len(progress.terminal.steps))
        assert os.waitpid(child, 0)[1] == 0
        assert len(progress.terminal.steps) == 1
