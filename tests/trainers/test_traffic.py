"""The lines of a run on several ranks say what its collectives carry; a resumed run says the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from running import TRAFFIC, make_trainer, run_until

from engines.distributed.testing import run_ranks

STEPS = 4
RUN = [
    "+exp=embedder_infonce",
    f"trainer.max_steps={STEPS}",
    "trainer.save_every=1",
    "trainer.eval_every=2",
    "eval.depth=100",
]
CARRIED = {"lists", "tokens", "representations", "gradients", "flags"}


def traffic_of_runs(options: list[str]) -> list[list[dict[str, Any]]]:
    """The lines of metrics.jsonl of an uninterrupted run, and of one that stops after its second step."""
    run_until([([*options, "run_name=stopped"], 2)])
    found = []
    for name in ("whole", "stopped"):
        trainer = make_trainer([*options, f"run_name={name}"])
        trainer.fit()
        lines = [json.loads(line) for line in trainer.run.metrics_file.read_text().splitlines()]
        found.append([line for line in lines if line["split"] == "train"])
    return found


def bytes_of(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name.startswith(TRAFFIC) and name.endswith("_bytes")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: Any) -> list[list[dict[str, Any]]]:
    settings = [*tiny_overrides(tmp_path_factory.mktemp("traffic")), *RUN]
    return run_ranks(traffic_of_runs, 2, settings, timeout_s=280)[0]


def test_each_line_has_the_traffic_of_its_step(runs: list[list[dict[str, Any]]]) -> None:
    whole = runs[0]
    assert len(whole) == STEPS
    for line in whole[:-1]:
        names = {name.removeprefix(TRAFFIC).removesuffix("_s") for name in line if name.endswith("_s")} - {
            "rows_per",
            "tokens_per",
        }
        assert names >= CARRIED
        assert all(line[f"{TRAFFIC}{name}_s"] >= 0 for name in CARRIED)
        assert line[f"{TRAFFIC}representations_received_bytes"] > 0
    assert f"{TRAFFIC}tokens_sent_bytes" not in whole[-1], "the last step loads no batch for another"


def test_a_resumed_run_has_the_same_bytes(runs: list[list[dict[str, Any]]]) -> None:
    whole, resumed = runs
    assert [bytes_of(line) for line in resumed] == [bytes_of(line) for line in whole]
