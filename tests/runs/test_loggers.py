"""Tracking: quiet, offline without a login, and never the run's business when it fails."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from runs.directory import RunDirectory
from runs.loggers.logger import NoLogger, StageLogger
from runs.loggers.tensorboard import TensorBoardConfig
from runs.loggers.wandb import WandbConfig, WandbLogger, logged_in, run_id


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.open({"run_name": "a", "output_dir": str(tmp_path), "resume": "auto"})


class Tracker:
    """Stands in for a W&B run."""

    def __init__(self, fails: bool = False):
        self.fails = fails
        self.lines: list[dict] = []
        self.summary: dict = {}
        self.finished = False

    def define_metric(self, name: str, step_metric: str) -> None:
        pass

    def log(self, values: dict) -> None:
        if self.fails:
            raise OSError("disk full")
        self.lines.append(values)

    def finish(self) -> None:
        self.finished = True


def test_values_reach_the_tracker_in_order_with_their_step():
    tracker = Tracker()
    logger = WandbLogger(lambda: tracker)
    for step in (1, 2):
        logger.log({"train/loss": step / 2}, step)
    logger.finish({"after": 0.5})
    assert tracker.lines == [{"train/loss": 0.5, "step": 1}, {"train/loss": 1.0, "step": 2}]
    assert (tracker.summary, tracker.finished) == ({"after": 0.5}, True)


def test_a_tracker_that_does_not_start_is_told_once(capsys):
    def fail() -> Tracker:
        raise SystemExit("no network")

    logger = WandbLogger(fail)
    logger.log({"train/loss": 1.0}, 1)
    logger.finish({})
    assert capsys.readouterr().err == "warning: the run continues without W&B: SystemExit: no network\n"


def test_a_tracker_that_fails_later_is_told_once(capsys):
    logger = WandbLogger(lambda: Tracker(fails=True))
    for step in range(5):
        logger.log({"train/loss": 1.0}, step)
    logger.finish({}, timeout_s=5)
    assert capsys.readouterr().err == "warning: the run continues without W&B: OSError: disk full\n"


def test_a_tracker_that_hangs_does_not_hold_the_run(capsys):
    began = time.monotonic()
    logger = WandbLogger(lambda: time.sleep(60), start_timeout_s=0.2)
    logger.log({"train/loss": 1.0}, 1)
    logger.finish({})
    assert time.monotonic() - began < 30
    assert "W&B: it did not start in 0 s" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["init", "log", "finish"])
@pytest.mark.parametrize("fault", ["raises", "hangs"])
def test_wandb_gone_or_slow_holds_no_step(call, fault, run, monkeypatch, capsys):
    """A stand-in for the module itself, whose network is gone or never answers."""
    hanging = threading.Event()

    def break_down(*_: object, **__: object) -> None:
        if fault == "raises":
            raise ConnectionError("api.wandb.ai is unreachable")
        hanging.wait(30)

    tracker = Tracker()
    module = ModuleType("wandb")
    module.init = lambda **_: tracker
    module.Settings = lambda **_: None
    setattr(module if call == "init" else tracker, call, break_down)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("runs.loggers.wandb.START_TIMEOUT_S", 0.3)
    logger = WandbConfig(mode="online").build(run, {})
    began = time.monotonic()
    for step in range(1000):
        logger.log({"train/loss": 1.0}, step)
    assert time.monotonic() - began < 1
    logger.finish({"after": 0.5}, timeout_s=0.3)
    assert time.monotonic() - began < 5
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("warning: the run continues without W&B: ")]) == 1, lines
    hanging.set()


def test_a_login_is_found_without_asking(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not logged_in()
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert logged_in()


def test_the_id_is_kept(tmp_path):
    assert run_id(tmp_path / "wandb" / "run_id") == run_id(tmp_path / "wandb" / "run_id")


def test_wandb_writes_offline_files_below_the_run_directory_and_prints_one_line(tmp_path):
    script = """
import sys
from runs.loggers.wandb import WandbConfig
from runs.directory import RunDirectory
config = {"run_name": "a", "output_dir": sys.argv[1], "resume": "auto"}
logger = WandbConfig(mode="offline").build(RunDirectory.open(config), config)
logger.log({"train/loss": 1.0}, 1)
logger.finish({"after": 0.5})
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == ""
    assert done.stderr.startswith("W&B is offline")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert len(list(Path(tmp_path).glob("a/wandb/offline-run-*/*.wandb"))) == 1


def test_tensorboard_writes_event_files(run):
    logger = TensorBoardConfig().build(run, {})
    logger.log({"train/loss": 1.0}, 1)
    logger.finish({})
    assert len(list((run.path / "tensorboard").glob("events.*"))) == 1


def test_a_tensorboard_that_fails_ends_no_run(run, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    logger = TensorBoardConfig().build(run, {})
    monkeypatch.setattr(logger.writer, "add_scalar", full)
    for step in (1, 2):
        logger.log({"train/loss": 1.0}, step)
    logger.finish({})
    assert capsys.readouterr().err.count("warning: the run continues without TensorBoard: OSError: [Errno 28]") == 1


def test_other_ranks_track_nothing(run, monkeypatch):
    for module in ("wandb", "tensorboard"):
        monkeypatch.setattr(f"runs.loggers.{module}.is_main", lambda: False)
    assert isinstance(WandbConfig().build(run, {}), NoLogger)
    assert isinstance(TensorBoardConfig().build(run, {}), NoLogger)


def test_a_stage_counts_on_and_does_not_end_the_record():
    class Kept(NoLogger):
        def __init__(self):
            self.lines = []

        def log(self, metrics, step):
            self.lines.append((step, dict(metrics)))

        def finish(self, summary):
            raise AssertionError("only the run ends the record")

    kept = Kept()
    stage = StageLogger(kept, number=2, first_step=100)
    stage.log({"train/loss": 0.5}, 3)
    stage.finish({})
    assert kept.lines == [(103, {"train/loss": 0.5, "stage": 2})]
