"""docs/speed.md shows what docs/speed.json holds, and says what is not measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.speed.questions import all_questions
from benchmarks.speed.setting import OURS, THEIRS

SCRIPT = Path(__file__).parents[1] / "docs" / "make_speed.py"
PLACE = {
    "hardware": {"cpu": "A CPU", "cpu_cores": 2, "memory_bytes": 8 * 2**30},
    "versions": {"torch": "2.13"},
    "threads": 2,
    "git": {"revision": "0123456789abcdef", "dirty": False},
    "time": "2026-01-02T03:04:05",
    "command": "python benchmarks/run.py",
}


@pytest.fixture(scope="module")
def make_speed():
    spec = importlib.util.spec_from_file_location("make_speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def turn(rows_per_s):
    shares = {"share_of_peak": rows_per_s / 100, "share_of_torch_peak": rows_per_s / 50}
    figures = shares | {"peak_memory_mib": 1000.0}
    return {"seconds": 1.0, "rows_per_s": float(rows_per_s), "tokens_per_s": 50.0 * rows_per_s, **figures}


def entry(question, *speeds, load=0.0):
    """An entry of the file, with pairs of these speeds."""
    pairs = [{OURS: turn(ours), THEIRS: turn(theirs), "both": {"load": load}} for ours, theirs in speeds]
    checks = [check.result(pairs) for check in question.checks]
    return {"title": question.title, "environment": PLACE, "pairs": pairs, "checks": checks}


def test_the_page_and_its_pictures_are_up_to_date(make_speed):
    entries = make_speed.load()
    assert make_speed.PAGE.read_text(encoding="utf-8") == make_speed.page(entries), "run: python docs/make_speed.py"
    pictures = {file.name: file.read_text() for file in make_speed.PICTURES.glob("speed_*.svg")}
    assert pictures == make_speed.pictures(entries)


def test_every_question_is_on_the_page_and_nothing_is_said_without_a_measurement(make_speed):
    text = make_speed.generated({})
    questions = all_questions().values()
    assert all(f"| {question.title} | " in text for question in questions)
    assert text.count("| not measured |") == sum(len(question.checks) for question in questions)
    assert "holds |\n" not in text.partition("holds when |  |\n")[2]
    assert make_speed.pictures({}) == {}


def test_a_measured_question_shows_median_range_and_verdict(make_speed):
    question = all_questions()["infonce_limit"]  # at least 1.15 times, and 65 % of the peak
    text = make_speed.generated({"infonce_limit": entry(question, (60, 50), (60, 40), (60, 30))})
    assert f"| {question.title} | rows/s, plackett / sentence-transformers | 1.50x | 1.20x, 2.00x |" in text
    assert "| at least 1.15x | holds |" in text
    assert "| 60% | 60%, 60% | at least 65% | **does not hold** |" in text
    assert "A CPU, 2 cores, 2 threads, 8 GiB; torch 2.13; commit 0123456789ab; 2026-01-02" in text
    assert f"| {question.title} | {THEIRS} | 40.0 | 2,000 | 40% | 1,000 MiB |" in text
    assert "Other work" not in text


def test_a_busy_machine_and_a_skipped_question_are_told(make_speed):
    question = all_questions()["infonce_docstrings"]
    skipped = {"title": "repeats", "environment": PLACE, "pairs": [], "skipped": "there is no option trainer.x"}
    entries = {"infonce_docstrings": entry(question, (2, 1), load=5.0), "repeats_10": skipped}
    text = make_speed.generated(entries)
    assert "Other work was on the cores in 1 of the pairs." in text
    assert "| skipped: there is no option trainer.x |" in text


def test_pictures_are_drawings_with_a_bar_for_each_side_and_a_mark_for_the_bound(make_speed):
    question = all_questions()["infonce_limit"]
    pictures = make_speed.pictures({"infonce_limit": entry(question, (60, 40))})
    speed, share = (ElementTree.fromstring(pictures[name]) for name in (make_speed.SPEED, make_speed.SHARE))
    kinds = [element.get("class") for element in share]
    assert [kinds.count(kind) for kind in ("bar", "other", "bound")] == [1, 1, 1]
    widths = [float(element.get("width")) for element in share if element.get("class") in ("bar", "other")]
    assert widths[1] / widths[0] == pytest.approx(40 / 60, rel=1e-2)
    assert [element.text for element in speed if element.tag.endswith("text")] == [question.title, "1.50x"]
