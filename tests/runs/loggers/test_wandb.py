"""W&B's options, its login, and faults of the module itself."""

from __future__ import annotations

import sys
import threading
import time
from types import ModuleType
from typing import Any

import pytest
from trackers import Tracker

from runs.directory import RunDirectory
from runs.loggers.logger import NoLogger
from runs.loggers.wandb import WandbConfig, logged_in, run_id

VARIABLES = ("PROJECT", "ENTITY", "RUN_GROUP", "JOB_TYPE", "TAGS", "NAME", "NOTES", "MODE", "DIR", "RUN_ID")


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDirectory:
    for name in VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    return RunDirectory.open({"run_name": "a", "output_dir": str(tmp_path), "resume": "auto"})


@pytest.fixture
def module(monkeypatch) -> ModuleType:
    """A stand-in for wandb: `init` keeps its arguments in `given`."""

    def init(**options: Any) -> Tracker:
        module.given = options
        return module.tracker

    module = ModuleType("wandb")
    module.tracker, module.init, module.Settings = Tracker(), init, lambda **_: None
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.mark.parametrize("call", ["init", "log", "finish"])
@pytest.mark.parametrize("fault", ["raises", "hangs"])
def test_wandb_gone_or_slow_holds_no_step(call, fault, run, module, monkeypatch, capsys):
    """A module whose network is gone or never answers."""
    hanging = threading.Event()

    def break_down(*_: object, **__: object) -> None:
        if fault == "raises":
            raise ConnectionError("api.wandb.ai is unreachable")
        hanging.wait(30)

    setattr(module if call == "init" else module.tracker, call, break_down)
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


def test_options_come_before_variables_and_these_before_defaults(run, module, monkeypatch):
    def given(config: WandbConfig) -> list[Any]:
        config.build(run, {}).finish({})
        return [module.given[name] for name in ("project", "job_type", "name", "group", "notes", "resume")]

    assert given(WandbConfig(mode="offline")) == ["plackett", "train", "a", None, None, "allow"]
    for name in ("PROJECT", "JOB_TYPE", "NAME"):
        monkeypatch.setenv(f"WANDB_{name}", f"from {name}")
    assert given(WandbConfig(mode="offline"))[:3] == ["from PROJECT", "from JOB_TYPE", "from NAME"]
    config = WandbConfig(project="p", job_type="j", name="n", group="g", notes="why", mode="online")
    assert given(config) == ["p", "j", "n", "g", "why", "allow"]


def test_the_config_holds_hashes_and_the_environment_and_no_secret(run, module, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_averyprivatetoken")
    run.describe_data("docs", "f1n9e4")
    settings = {"loss": {"temperature": 0.5}, "data": {"path": "https://me:pass1234@example.org"}, "hub_token": "abc"}
    WandbConfig(mode="offline", notes="hf_averyprivatetoken").build(run, settings).finish({})
    config = module.given["config"]
    assert config["loss"] == {"temperature": 0.5}
    assert config["content_hashes"]["data"] == {"name": "docs", "fingerprint": "f1n9e4"}
    assert len(config["code_hash"]) == 32
    assert {"command", "versions", "hardware", "git"} <= config["environment"].keys()
    assert (config["data"]["path"], config["hub_token"], module.given["notes"]) == (
        "https://***@example.org",
        "***",
        "***",
    )


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


def test_other_ranks_track_nothing(run, monkeypatch):
    monkeypatch.setattr("runs.loggers.wandb.is_main", lambda: False)
    assert isinstance(WandbConfig().build(run, {}), NoLogger)
