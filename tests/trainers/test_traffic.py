"""The lines of a run on several ranks say what its collectives carry; a resumed run says the same bytes."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import pytest
from running import TRAFFIC, make_trainer, run_until

from engines.distributed.testing import run_ranks
from trainers import step

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


OVERFLOWING = ["+exp=reranker_contrastive", "engine.precision=fp16"]
REPLACING = ["+exp=reranker_grpo", "trainer.refresh_every=4", "trainer.refresh_attempts=3", "data.lists.hard_depth=4"]
REPLACING += ["data.lists.random_fraction=0.4", "loss.temperature=0.02", "loss.num_generations=4"]


def plans_of_runs(runs: list[list[str]]) -> list[tuple[int, int, int]]:
    """Of each run, whose second step overflows once in fp16: how often steps exchanged tokens, how many steps were
    repeated, and how many lists replaced."""
    found = []
    for options in runs:
        trainer = make_trainer(options)
        trainer.evaluator = None
        update, attempts = trainer.engine.step, []

        def overflows_once(finite: Any, trainer: Any = trainer, update: Any = update, attempts: Any = attempts) -> Any:
            attempts.append(trainer.state.step)
            if trainer.engine.loss_scale is not None and attempts == [1, 2]:
                for parameter in trainer.engine.trainable:
                    parameter.grad.fill_(float("inf"))
            return update(finite)

        trainer.engine.step = overflows_once
        with patch.object(step, "fetch_own_tokens", side_effect=step.fetch_own_tokens) as exchange:
            trainer.fit()
        assert all(call.args[0].shared is not None for call in exchange.call_args_list)
        lines = [json.loads(line) for line in trainer.run.metrics_file.read_text().splitlines()]
        replaced = sum(line.get("replaced_lists", 0) for line in lines)
        found.append((exchange.call_count, len(attempts) - trainer.max_steps, int(replaced)))
    return found


def test_tokens_of_a_repeated_or_replaced_batch_travel_once(tiny_run: list[str]) -> None:
    common = [*tiny_run, f"trainer.max_steps={STEPS}", "trainer.eval_every=4"]
    for overflowing, replacing in run_ranks(
        plans_of_runs, 2, [[*common, *OVERFLOWING, "run_name=overflowing"], [*common, *REPLACING, "run_name=replacing"]]
    ):
        assert overflowing == (STEPS, 1, 0)
        assert replacing[:2] == (STEPS, 0)
        assert replacing[2] > 0
