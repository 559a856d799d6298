"""benchmarks/run.py: its checks, its file of pairs, counted operations, and the command itself at toy size."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.side_by_side import RowFlops
from benchmarks.speed import checks
from benchmarks.speed.checks import Check
from benchmarks.speed.measure import figures, measure
from benchmarks.speed.questions import Question, all_questions, faster, small
from benchmarks.speed.record import OtherConditions, Record
from benchmarks.speed.setting import OURS, THEIRS, Setting
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
    found = figures({"seconds": 2.0, "matmul_flops_per_s": 1000.0, "peak_memory_mib": 7.0}, steps)
    assert (found["rows_per_s"], found["tokens_per_s"], found["share_of_peak"]) == (3, 15, 0.2)
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


def test_pairs_that_are_there_are_not_measured_again(tmp_path):
    entry, saved = {"pairs": [pair(1, 2), pair(1, 3)]}, []
    measure(QUESTION, entry, 2, tmp_path, lambda: saved.append(1), pytest.fail)  # it would start processes, and say so
    assert len(entry["pairs"]) == 2
    assert [check["value"] for check in entry["checks"]] == [2.5]
    assert saved


def test_every_question_is_measurable_at_toy_size_and_together_they_take_an_hour():
    questions = all_questions("folder")
    assert sum(question.minutes for question in questions.values()) <= 60
    for question in questions.values():
        assert question.checks
        assert len(question.sides) == 2
        assert small(question).setting.num_steps <= 8
        assert Setting.from_json(question.setting.as_json()) == question.setting


def run(folder, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_command_goes_on_from_a_killed_run(tmp_path):
    finished = run(tmp_path, "--quick", "--pairs", "1", "encode_docstrings")
    assert finished.returncode == 0, finished.stderr
    file = tmp_path / "outputs" / "benchmarks" / "quick.json"
    first = json.loads(file.read_text())["questions"]["encode_docstrings"]
    assert [set(turns) for turns in first["pairs"]] == [{OURS, THEIRS, "both"}]
    assert first["environment"]["git"]
    assert first["environment"]["hardware"]["cpu"]
    assert "run.py --quick" in first["environment"]["command"]
    again = run(tmp_path, "--quick", "encode_docstrings")
    assert "pair 2 of 2" in again.stdout
    assert "pair 1 of" not in again.stdout
    second = json.loads(file.read_text())["questions"]["encode_docstrings"]
    assert second["pairs"][:1] == first["pairs"]
    assert second["checks"][0]["what"] == "rows/s, plackett / sentence-transformers"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no question nothing: choose from infonce_docstrings"),
        (["--data", "nowhere"], "--data nowhere has no corpus.jsonl"),
        (["--pairs", "0"], "--pairs 0 must be at least 1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, message, tmp_path):
    finished = run(tmp_path, *arguments)
    assert finished.returncode
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
