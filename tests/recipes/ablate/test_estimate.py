"""The time that is left, from first steps and from finished jobs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from recipes.ablate.configurations import configurations_of
from recipes.ablate.estimate import Estimate, last_train_line, steps_of
from recipes.ablate.record import Record
from recipes.ablate.schedule import Outcome


@pytest.fixture
def record(tmp_path: Path) -> Record:
    made = Record(tmp_path, (), [], (1, 2))
    for configuration in configurations_of({}, {"loss": ["bce", "hinge"]}):
        made.add(configuration)
    return made


def write(record: Record, job, *lines: dict) -> None:
    folder = record.run_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "spl')


def test_first_steps_give_an_estimate_of_all_jobs(record: Record):
    first = next(iter(record.jobs))
    estimate = Estimate(record, lambda job: 100, slots=2, num_jobs=4)
    running = {first: time.monotonic() - 12.0}  # 10 s before the steps, of 1 s each
    assert not estimate.read_steps(running)
    assert estimate.remaining_s(running) is None
    write(record, first, {"step": 1, "split": "train", "seconds": 1.0})
    assert not estimate.read_steps(running), "the first step alone is slow"
    write(record, first, {"step": 2, "split": "train", "seconds": 2.0}, {"step": 2, "split": "dev", "loss": 1})
    assert estimate.read_steps(running)
    assert not estimate.read_steps(running), "said once"
    assert estimate.of(first) == pytest.approx(120, abs=1)
    assert estimate.remaining_s(running) == pytest.approx((4 * 120 - 12) / 2, abs=2)


def test_finished_jobs_replace_it_and_those_of_the_configuration_go_first(record: Record):
    jobs = list(record.jobs)
    record.ended(jobs[0], Outcome("finished", None, 10.0))
    record.ended(jobs[2], Outcome("finished", None, 30.0))
    estimate = Estimate(record, lambda job: 100, slots=1, num_jobs=4)
    assert [estimate.of(job) for job in (jobs[1], jobs[3], None)] == [10.0, 30.0, 20.0]
    assert estimate.remaining_s({}) == 40.0
    record.ended(jobs[3], Outcome("failed", "x", 1.0))
    assert estimate.remaining_s({}) == 10.0


def test_a_resumed_job_counts_the_steps_that_are_left(record: Record):
    jobs = list(record.jobs)
    for job in jobs[:3]:
        record.ended(job, Outcome("finished", None, 100.0))
    write(record, jobs[3], {"step": 90, "split": "train", "seconds": 90.0})
    estimate = Estimate(record, lambda job: 100, slots=1, num_jobs=4)
    assert estimate.remaining_s({jobs[3]: time.monotonic()}) == pytest.approx(10.0)


def test_jobs_that_failed_in_an_earlier_command_are_waiting(record: Record):
    jobs = list(record.jobs)
    for job in jobs[:3]:
        record.ended(job, Outcome("finished", None, 10.0))
    record.ended(jobs[3], Outcome("failed", "x", 5.0))
    estimate = Estimate(record, lambda job: None, slots=1, num_jobs=4)
    assert estimate.remaining_s({}) == 10.0
    record.ended(jobs[3], Outcome("failed", "x", 5.0))
    assert estimate.remaining_s({}) == 0.0


def test_trials_that_are_not_drawn_yet_count(record: Record):
    record.ended(next(iter(record.jobs)), Outcome("finished", None, 10.0))
    assert Estimate(record, lambda job: None, slots=1, num_jobs=10).remaining_s({}) == 90.0


def test_runs_without_a_number_of_steps_wait_for_the_first_finished_one(record: Record):
    first = next(iter(record.jobs))
    write(record, first, {"step": 5, "split": "train", "seconds": 2.0})
    assert not Estimate(record, lambda job: None, slots=1, num_jobs=4).read_steps({first: 0.0})
    assert steps_of({"trainer": None, "stages": ["a"]}) is None
    assert steps_of({"trainer": {"max_steps": 7}}) == 7
    assert last_train_line(record.folder) is None
