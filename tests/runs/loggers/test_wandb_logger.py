"""The thread of W&B: what reaches the tracker, how a run ends there, and that it never holds the run."""

from __future__ import annotations

import signal
import time

import pytest
from trackers import Tracker, make_logger

from engines.distributed import preemption
from engines.distributed.preemption import Preempted


def test_values_reach_the_tracker_in_order_with_their_step(tmp_path):
    tracker = Tracker()
    logger = make_logger(lambda: tracker, tmp_path)
    for step in (1, 2):
        logger.log({"train/loss": step / 2}, step)
    logger.finish({"after": 0.5})
    assert tracker.lines == [{"train/loss": 0.5, "step": 1}, {"train/loss": 1.0, "step": 2}]
    assert (tracker.summary, tracker.exit_code) == ({"after": 0.5}, 0)


def test_each_split_is_drawn_over_the_step_of_training_and_dev_keeps_its_best(tmp_path):
    tracker = Tracker()
    make_logger(lambda: tracker, tmp_path).finish({})
    assert {name: options.get("step_metric") for name, options in tracker.defined.items()} == {
        "step": None,
        **dict.fromkeys(("train/*", "train/loss", "train/reward_mean", "dev/*", "test/*", "stage"), "step"),
    }
    summaries = {name: options["summary"] for name, options in tracker.defined.items() if "summary" in options}
    assert summaries == {"train/loss": "min,last", "train/reward_mean": "max,last", "dev/*": "max,last"}


def test_a_run_that_goes_back_logs_no_step_twice(tmp_path):
    tracker = Tracker()
    logger = make_logger(lambda: tracker, tmp_path)
    for step in (10, 20, 30, 20, 30, 40):  # a rollback to the checkpoint of step 10
        logger.log({"train/loss": step}, step)
    logger.log({"dev/MAP": 0.5}, 20)
    logger.finish({})
    assert [(line["step"], *line) for line in tracker.lines] == [
        *((step, "train/loss", "step") for step in (10, 20, 30, 40)),
        (20, "dev/MAP", "step"),
    ]


def test_a_failed_run_raises_an_alert_without_secrets_and_is_marked_as_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_averyprivatetoken")
    tracker = Tracker()
    make_logger(lambda: tracker, tmp_path).stop(ValueError("no access with hf_averyprivatetoken"))
    assert tracker.alerts == [(f"{tmp_path.name}: failed"[:63], "ValueError: no access with ***", "ERROR")]
    assert (tracker.exit_code, tracker.preempting) == (1, False)


def test_a_run_that_is_not_finite_says_so(tmp_path):
    tracker = Tracker()
    logger = make_logger(lambda: tracker, tmp_path)
    logger.alert("a batch is not finite", "step 3, batch 2: skip")
    logger.stop(FloatingPointError("the loss is nan"))
    assert tracker.alerts == [
        ("a batch is not finite", "step 3, batch 2: skip", "WARN"),
        (f"{tmp_path.name}: not finite"[:63], "FloatingPointError: the loss is nan", "ERROR"),
    ]


@pytest.mark.parametrize(
    ("received", "preempting", "exit_code"), [(signal.SIGTERM, True, 75), (signal.SIGINT, False, 130)]
)
def test_a_preempted_run_is_marked_and_an_interrupted_one_is_not(
    received, preempting, exit_code, tmp_path, monkeypatch
):
    monkeypatch.setattr(preemption, "_state", preemption.State(received=received.name))
    tracker = Tracker()
    make_logger(lambda: tracker, tmp_path).stop(Preempted("at step 3"))
    assert (tracker.preempting, tracker.exit_code, tracker.alerts) == (preempting, exit_code, [])


def test_a_tracker_that_does_not_start_is_told_once(tmp_path, capsys):
    def fail() -> Tracker:
        raise SystemExit("no network")

    logger = make_logger(fail, tmp_path)
    logger.log({"train/loss": 1.0}, 1)
    logger.alert("a", "b")
    logger.finish({})
    assert capsys.readouterr().err == "warning: the run continues without W&B: SystemExit: no network\n"


def test_a_tracker_that_fails_later_is_told_once(tmp_path, capsys):
    tracker = Tracker(fails=True)
    logger = make_logger(lambda: tracker, tmp_path)
    for step in range(5):
        logger.log({"train/loss": 1.0}, step)
    logger._thread.join(5)
    assert (tracker.finished, tracker.exit_code) == (True, 1), "else it stays running in W&B"
    logger.finish({}, timeout_s=5)
    assert capsys.readouterr().err == "warning: the run continues without W&B: OSError: disk full\n"


def test_results_that_cannot_be_logged_end_the_run_all_the_same(tmp_path, capsys):
    tracker = Tracker(fails=True)
    make_logger(lambda: tracker, tmp_path).finish({"best_dev": 0.5})
    assert (tracker.finished, tracker.exit_code) == (True, 0)
    assert "W&B: OSError: disk full" in capsys.readouterr().err


def test_a_tracker_that_starts_too_late_is_ended(tmp_path, capsys):
    tracker = Tracker()
    logger = make_logger(lambda: time.sleep(0.5) or tracker, tmp_path, start_timeout_s=0.1)
    assert not tracker.finished
    logger._thread.join(5)
    assert (tracker.finished, tracker.exit_code) == (True, 1)
    assert "W&B: it did not start in 0 s" in capsys.readouterr().err


def test_a_tracker_that_hangs_does_not_hold_the_run(tmp_path, capsys):
    began = time.monotonic()
    logger = make_logger(lambda: time.sleep(60), tmp_path, start_timeout_s=0.2)
    logger.log({"train/loss": 1.0}, 1)
    logger.stop(ValueError("another"))
    logger.finish({})
    assert time.monotonic() - began < 30
    assert "W&B: it did not start in 0 s" in capsys.readouterr().err
