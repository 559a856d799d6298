"""Two hosts, one of which is disconnected and reconnected (tests/two_hosts.py)."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from recipes.training_run import train

TIMES = {"seconds", "rows_per_s", "tokens_per_s"}


@pytest.fixture
def two_hosts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("two_hosts", Path(__file__).parents[1] / "two_hosts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := module.missing_requirement():
        pytest.skip(reason)
    return module


def train_here(overrides: list[str]) -> None:
    train(load(overrides))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in record.items() if name not in TIMES and not name.startswith("traffic/")}
        for record in records
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_host_that_is_cut_off_ends_both_in_time_and_the_restart_resumes(
    two_hosts: ModuleType, tiny_overrides: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    settings = ["+exp=reranker_contrastive", *tiny_overrides(tmp_path), "trainer.max_steps=20", "trainer.save_every=2"]
    seen = two_hosts.disconnect_and_reconnect(tmp_path, settings)
    assert re.search(r"nothing heard for 12 s of rank 1 \(.+\), last at step \d+; the same", seen["host_a"]["message"])
    assert re.search(r"the store at .+ does not answer.+this is rank 1 \(.+\), at step \d+;", seen["host_b"]["message"])
    assert max(seen[host]["message_after_s"] for host in ("host_a", "host_b")) < seen["timeout_s"]
    assert seen["statuses"] == [0, 0]
    assert 0 < seen["resumed_from"] <= seen["step_when_cut"] < seen["last_step"] == 20
    run_ranks(train_here, 2, [*settings, "run_name=whole"])
    assert metrics_of(tmp_path / "outputs" / "two_hosts") == metrics_of(tmp_path / "outputs" / "whole")
