"""benchmarks/run.py: its checks, its file of pairs, counted operations, and the command itself at toy size."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import run as command
from benchmarks.side_by_side import RowFlops
from benchmarks.speed import checks
from benchmarks.speed.checks import Check
from benchmarks.speed.measure import NoEffect, figures, measure
from benchmarks.speed.questions import Question, all_questions, faster, small
from benchmarks.speed.record import OtherConditions, Record
from benchmarks.speed.scripts import compare_speed
from benchmarks.speed.setting import OURS, THEIRS, Setting
from benchmarks.speed.turns import WorkerFailed
from models.bi_encoder import BiEncoderConfig

ROOT = Path(__file__).resolve().parents[2]
QUESTION = Question("speed", "Speed", Setting("encode"), (faster(1.5),), 1)
HERE = {"code_hash": "a", "versions": {"torch": "2"}, "hardware": {"cpu": "x"}, "threads": 1, "time": "now"}


def pair(ours, theirs, **more):
    """Seconds of a turn of both sides for the same ten rows."""
    turns = {OURS: ours, THEIRS: theirs}
    return {side: {"seconds": s, "rows_per_s": 10 / s, "peak_memory_mib": 100 * s, **more} for side, s in turns.items()}


def test_operations_are_those_that_torch_counts_for_rows_without_padding(tiny_models, tmp_path):
    config = BiEncoderConfig(name_or_path=str(tiny_models.write_tiny_bert(tmp_path)), attention="eager")
    lengths = [3, 11, 40, 5]
    for backward in (False, True):
        model, total = config.build(seed=1), 0
        for length in lengths:
            ids = torch.full((1, length), 7)
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
                output = model(input_ids=ids, attention_mask=torch.ones_like(ids))["embedding"]
                if backward:
                    output.square().sum().backward()
            total += counter.get_total_flops()
        assert RowFlops.count(config, backward=backward).of(lengths) == pytest.approx(total, rel=1e-9)


def test_operations_of_a_tiny_encoder_are_those_computed_by_hand(tiny_models, tmp_path):
    config = BiEncoderConfig(name_or_path=str(tiny_models.write_tiny_bert(tmp_path)))
    tokens, hidden, intermediate, layers = 10, 32, 64, 2
    products = tokens * (4 * hidden**2 + 2 * hidden * intermediate) + 2 * tokens**2 * hidden
    assert RowFlops.count(config, backward=False).of([tokens]) == pytest.approx(2 * layers * products, rel=0.02)


def test_a_ratio_is_that_within_a_pair_and_the_median_of_pairs_counts():
    pairs = [pair(1, 2), pair(10, 15), pair(1, 9)]  # a pair in which the machine was busy, and one outlier
    assert checks.speed(pairs) == 2
    assert checks.memory(pairs) == 10 / 15
    assert checks.seconds(THEIRS, OURS)(pairs) == 2


def test_a_check_holds_at_its_bound_and_not_beyond():
    at_least, at_most = Check("x", checks.speed, 2), Check("x", checks.speed, 2, at_most=True)
    for factor, holds in ((1.99, (False, True)), (2, (True, True)), (2.01, (True, False))):
        assert (at_least.result([pair(1, factor)])["holds"], at_most.result([pair(1, factor)])["holds"]) == holds
    nothing = Check("x", checks.largest("gradient"), 1, at_most=True).result([pair(1, 1)])
    assert (nothing["value"], nothing["holds"]) == (None, False)


def test_time_that_falls_in_proportion_to_repeats_is_wholly_saved():
    found = checks.saved(OURS, THEIRS)
    assert found([pair(0.5, 1, repeated_share=0.5)]) == 1
    assert found([pair(0.9, 1, repeated_share=0.2)]) == pytest.approx(0.5)
    assert found([pair(1, 1, repeated_share=0.1)]) == 0


def test_equal_quality_is_within_the_spread_of_seeds():
    def seeds(ours, theirs):
        return [{OURS: {"nDCG@10": a}, THEIRS: {"nDCG@10": b}} for a, b in zip(ours, theirs, strict=True)]

    assert checks.quality_in_spreads(seeds([0.6, 0.7, 0.8], [0.65, 0.75, 0.85])) == pytest.approx(-0.5)
    assert checks.quality_in_spreads(seeds([0.5, 0.5, 0.5], [0.6, 0.7, 0.8])) == pytest.approx(-2)
    assert math.isnan(checks.quality_in_spreads(seeds([0.5], [0.6])))


def test_the_figures_of_a_turn_are_those_of_its_unpadded_texts():
    steps = [
        {"rows": 2, "tokens": 20, "flops": 100, "repeated_share": 0.5},
        {"rows": 4, "tokens": 10, "flops": 300, "repeated_share": 0.1},
    ]
    found = figures({"seconds": 2.0, "matmul_peaks": {"torch": 500.0, "oneDNN": 1000.0}, "peak_memory_mib": 7.0}, steps)
    assert (found["rows_per_s"], found["tokens_per_s"], found["share_of_peak"]) == (3, 15, 0.2)
    assert found["share_of_torch_peak"] == 0.4
    assert found["repeated_share"] == pytest.approx((50 + 30) / 400)


def test_a_file_goes_on_with_its_pairs_under_the_same_conditions_alone(tmp_path):
    record = Record(tmp_path / "figures.json")
    record.open(QUESTION, HERE, again=False)["pairs"].append(pair(1, 2))
    record.save()
    known = Record(record.file)
    assert known.open(QUESTION, HERE | {"time": "later"}, again=False)["pairs"] == [pair(1, 2)]
    with pytest.raises(OtherConditions, match=r"figures.json: speed was measured with another code_hash: --again"):
        known.open(QUESTION, HERE | {"code_hash": "b"}, again=False)
    other = replace(QUESTION, setting=replace(QUESTION.setting, max_length=7))
    with pytest.raises(OtherConditions, match="another setting"):
        known.open(other, HERE, again=False)
    assert known.open(QUESTION, HERE | {"code_hash": "b"}, again=True)["pairs"] == []
    record.file.write_text("[]")
    with pytest.raises(ValueError, match="choose another --output"):
        Record(record.file)


class FakeSide:
    """A side whose turns take one second for plackett and two for the other; its third turn fails."""

    started: ClassVar[list[str]] = []
    order: ClassVar[list[str]] = []

    def __init__(self, side, setting, folder):
        self.side, self.turns = side, 0
        self.started.append(side)

    def answer(self):
        return {"peak_memory_mib": 1.0}

    def turn(self):
        self.turns += 1
        self.order.append(self.side)
        if self.turns == 3:
            raise WorkerFailed("killed")
        seconds = 1.0 if self.side == OURS else 2.0
        return {"seconds": seconds, "peak_memory_mib": 1.0, "matmul_peaks": {"torch": 10.0}, "values": [seconds, 4.0]}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def fake_sides(monkeypatch):
    """Measurements without processes: step n of the texts has n rows."""
    work = [{"rows": n, "tokens": 10 * n, "flops": 5.0} for n in range(20)]
    monkeypatch.setattr("benchmarks.speed.measure.Side", FakeSide)
    monkeypatch.setattr("benchmarks.speed.measure.texts_of", lambda setting, folder: {"steps": work})
    FakeSide.started, FakeSide.order = [], []


def test_sides_alternate_and_a_resumed_question_goes_on_with_the_pairs_that_are_missing(fake_sides, tmp_path):
    question = replace(QUESTION, setting=replace(QUESTION.setting, warm_up=3, steps=2))
    entry, saved, said = {"pairs": []}, [], []
    for wanted in (4, 4):  # the first time it is killed in the third pair
        with contextlib.suppress(WorkerFailed):
            measure(question, entry, wanted, tmp_path, lambda: saved.append(len(entry["pairs"])), said.append)
    assert [line.partition(":")[0] for line in said] == [f"pair {n} of 4" for n in (1, 2, 3, 4)]
    assert FakeSide.started == [OURS, THEIRS] * 2
    assert FakeSide.order == [OURS, THEIRS, THEIRS, OURS, OURS, OURS, THEIRS, THEIRS, OURS]
    assert saved == [1, 2, 3, 4, 4]
    rows = [pair[OURS]["rows_per_s"] for pair in entry["pairs"]]
    assert rows == [
        3 + 4,
        5 + 6,
        3 + 4,
        5 + 6,
    ]  # the rows of the steps after the warm-up, from the start of the process
    assert entry["pairs"][0]["both"]["difference"] == 0.25
    assert [check["value"] for check in entry["checks"]] == [2.0]
    measure(question, entry, 4, tmp_path, lambda: None, pytest.fail)  # all are there
    assert len(FakeSide.started) == 4


def test_sides_that_an_option_does_not_tell_apart_are_not_measured(fake_sides, tmp_path):
    question = replace(QUESTION, differs="peak_memory_mib")
    with pytest.raises(NoEffect, match="peak_memory_mib is the same on both sides"):
        measure(question, {"pairs": []}, 1, tmp_path, lambda: None, pytest.fail)


def test_the_scripts_of_one_comparison_keep_their_last_line(fake_sides, tmp_path, capsys):
    setting = replace(QUESTION.setting, warm_up=3, steps=2)
    compare_speed(setting, 2, tmp_path, rows="texts")
    *_, table, empty, last = capsys.readouterr().out.splitlines()
    assert table == "| sentence-transformers | 4.5 | 45 | 50% | 1 MiB |"
    assert (empty, last) == ("", "speed, plackett / sentence-transformers: median 2.00 (2.00, 2.00)")
    compare_speed(setting, 2, tmp_path)  # from the file
    assert len(FakeSide.started) == 2


def test_every_question_is_measurable_at_toy_size_and_together_they_take_70_minutes():
    questions = all_questions("folder")
    assert sum(question.minutes for question in questions.values()) <= 70
    for question in questions.values():
        assert question.checks
        assert len(question.sides) == 2
        assert small(question).setting.num_steps <= 8
        assert Setting.from_json(question.setting.as_json()) == question.setting


def test_the_command_measures_a_question(tmp_path):
    words = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--quick", "--pairs", "1", "encode_docstrings"]
    finished = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "encode_docstrings: pair 1 of 1: plackett" in finished.stdout
    assert "| at most 1e-04 | yes |" in finished.stdout
    content = json.loads((tmp_path / "outputs" / "benchmarks" / "quick.json").read_text())
    entry = content["questions"]["encode_docstrings"]
    assert [set(turns) for turns in entry["pairs"]] == [{OURS, THEIRS, "both"}]
    assert entry["environment"]["hardware"]["cpu"]
    assert "run.py --quick" in entry["environment"]["command"]
    assert " /" not in entry["environment"]["command"], "no path of this machine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no question nothing: choose from infonce_docstrings"),
        (["--data", "nowhere"], "--data nowhere has no corpus.jsonl"),
        (["--pairs", "0"], "--pairs 0 must be at least 1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert message in f"{stop.value.code}{capsys.readouterr().err}"
    assert stop.value.code
