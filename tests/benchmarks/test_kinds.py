"""The kinds of measurements of benchmarks/run.py at toy size, in this process: the same texts and results on both
sides."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
from dataclasses import replace

import pytest

from benchmarks.speed import questions
from benchmarks.speed.checks import difference_of_values
from benchmarks.speed.kinds import KINDS
from benchmarks.speed.ours import gradient_difference
from benchmarks.speed.setting import SIDES, THEIRS, Job
from benchmarks.speed.turns import TEXTS, Turns

pytest.importorskip("sentence_transformers")
QUESTIONS = {name: questions.small(question) for name, question in questions.all_questions().items()}
BUDGETS = {"chunks": "trainer.token_budget=64", "whole": "trainer.token_budget=4096"}


def answers_of(side, setting, folder):
    """What a worker answers in two turns."""
    answers, job = io.StringIO(), Job(side, setting, folder, folder / side)
    job.scratch.mkdir()
    turns = Turns(setting, io.StringIO("go\ngo\n"), answers)
    with contextlib.suppress(SystemExit):  # there is no third turn
        KINDS[setting.kind].run(job, turns)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def run_both(name, tmp_path, **changes):
    """(the texts, the answers of each side) of a question with two turns."""
    setting = replace(QUESTIONS[name].setting, turns=2, **changes)
    job = Job(TEXTS, setting, tmp_path, tmp_path / TEXTS)
    job.scratch.mkdir()
    job.texts_file.write_text(json.dumps(KINDS[setting.kind].make_texts(job)))
    return job.texts, {side: answers_of(side, setting, tmp_path) for side in setting.sides or SIDES}


@pytest.mark.parametrize("name", ["encode_docstrings", "rerank_docstrings"])
def test_both_sides_give_the_same_results(name, tmp_path):
    texts, answers = run_both(name, tmp_path)
    assert [len(found) for found in answers.values()] == [3, 3]  # after the warm-up and after each turn
    assert len(texts["steps"]) == 3
    assert "seconds" not in answers[THEIRS][0]
    for ours, theirs in zip(*answers.values(), strict=True):
        assert difference_of_values(ours["values"], theirs["values"]) < 1e-5
        assert min(ours["peak_memory_mib"], ours["matmul_peaks"]["torch"]) > 1


@pytest.mark.parametrize("name", ["losses_infonce", "losses_listwise"])
def test_both_sides_train_on_the_same_steps(name, tmp_path):
    _, answers = run_both(name, tmp_path)
    [ours], [theirs] = answers.values()
    assert len(ours["losses"]) == QUESTIONS[name].setting.quality_steps
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-3)
    assert ours["losses"][0] != pytest.approx(ours["losses"][1], rel=1e-3)


def test_cached_losses_are_those_of_the_whole_batch(tmp_path):
    setting = {"overrides": ("model.dropout=0",), "evaluate": False, "quality_steps": 2, "batch_size": 6}
    _, answers = run_both("cached_infonce", tmp_path, **setting)
    [ours], [theirs] = answers.values()
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-3)


@pytest.mark.parametrize("share", [10, 50])
def test_a_pool_of_few_documents_is_repeated_and_the_share_is_counted(share, tmp_path):
    question = questions.all_questions()[f"repeats_{share}"]
    sides = dict.fromkeys(question.sides, ("embedder_infonce",))
    setting = replace(question.setting, tiny=True, max_length=64, steps=10, turns=1, sides=sides)
    job = Job(TEXTS, setting, tmp_path, tmp_path / TEXTS)
    job.scratch.mkdir()
    steps = KINDS["ours"].make_texts(job)["steps"]
    assert statistics.mean(step["repeated_share"] for step in steps) == pytest.approx(share / 100, abs=0.04)


def test_the_first_gradients_of_two_settings_are_compared(tmp_path):
    sides = {name: ("reranker_contrastive", "model.dropout=0", budget) for name, budget in BUDGETS.items()}
    texts, answers = run_both("grpo", tmp_path, sides=sides, compare_gradients=True)
    assert [len(found) for found in answers.values()] == [3, 3]
    assert gradient_difference(tmp_path, list(sides)) < 1e-5
    assert texts["steps"][0]["rows"] == 8
