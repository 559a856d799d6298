"""A preempted run saves where it stands and goes on as if nothing had been."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import make_trainer, metrics_of, run_to_the_end

from engines.distributed import preemption
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks

SETTINGS = ["trainer.max_steps=7", "trainer.eval_every=3", "trainer.save_every=100"]
GRPO = ["+exp=reranker_grpo", "trainer.num_iterations=2", "loss.beta=0.1", *SETTINGS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: Callable[[Path], list[str]]) -> list[dict]:
    """The metrics of the run that nothing disturbs."""
    return run_to_the_end([*GRPO, *tiny_overrides(tmp_path_factory.mktemp("whole"))])[0]


def preempt(overrides: list[str], step: int, where: str, on_rank: int = 0) -> Any:
    """A run that gets SIGTERM on one rank during the call `where` of that step."""
    trainer = make_trainer(overrides)
    owner, name = (trainer.evaluator, "evaluate") if where == "evaluate" else (trainer, where)
    call = getattr(owner, name)

    def signalled(*arguments: Any, **options: Any) -> Any:
        if trainer.state.step == step and rank() == on_rank:
            signal.raise_signal(signal.SIGTERM)
        return call(*arguments, **options)

    setattr(owner, name, signalled)
    with preemption.handle_signals():
        preemption.defer_signals()
        with pytest.raises(preemption.Preempted, match=r"preempted by (SIGTERM|a signal to another rank) at step"):
            trainer.fit()
    return trainer


@pytest.mark.parametrize(
    ("step", "where", "saved"),
    [
        (2, "next_batch", 2),  # known within the step
        (2, "log", 3),  # after the step's agreement: the next one's
        (3, "next_batch", 3),  # an evaluation is due, and owed to the resumed run
        (3, "evaluate", 3),  # ended in its midst
        (7, "next_batch", 7),  # the last step
    ],
)
def test_a_preempted_run_goes_on_as_if_it_had_not_been(
    step: int, where: str, saved: int, tiny_run: list[str], whole: list[dict]
) -> None:
    settings = [*GRPO, *tiny_run]
    trainer = preempt(settings, step, where)
    assert trainer.state.step == saved
    again = make_trainer(settings)
    again.fit()
    assert metrics_of(again) == whole
    assert again.state.best_step == max(whole, key=lambda line: line.get("nDCG@10", 0))["step"]


def test_a_preemption_during_the_first_evaluation_has_nothing_to_save(tiny_run: list[str]) -> None:
    trainer = preempt([*GRPO, *tiny_run], 0, "evaluate")
    assert trainer.checkpoints.latest() is None


def test_a_second_preemption_and_a_kill_during_the_owed_evaluation(
    tiny_run: list[str], whole: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*GRPO, *tiny_run]
    preempt(settings, 3, "evaluate")
    preempt(settings, 3, "evaluate")
    killed = make_trainer(settings)

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(killed.logger, "log", kill, raising=False)
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    again = make_trainer(settings)
    again.fit()
    assert metrics_of(again) == whole


def preempt_and_go_on(overrides: list[str], step: int) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """Where it stopped, its metrics in the end, and those of a run that nothing disturbs."""
    trainer = preempt([*overrides, "run_name=preempted"], step, "next_batch", on_rank=1)
    runs = [run_to_the_end([*overrides, f"run_name={name}"])[0] for name in ("preempted", "whole")]
    return trainer.state.step, *runs


@pytest.mark.parametrize("engine", ["torch", "zero3"])
def test_a_signal_to_one_of_two_ranks(engine: str, tiny_overrides: Callable[[Path], list[str]], tmp_path: Path) -> None:
    settings = [*GRPO, *tiny_overrides(tmp_path), f"engine={engine}"]
    step = random.randint(1, 7)
    for saved, metrics, whole in run_ranks(preempt_and_go_on, 2, settings, step):
        assert saved == step
        assert [line["step"] for line in metrics if line["split"] == "train"] == [*range(1, 8)]
        assert metrics == whole, f"preempted at step {step}"
