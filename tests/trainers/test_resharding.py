"""A run goes on with other ranks and another ZeRO stage: the same samples, equal up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import run_several, run_until

from engines.distributed.testing import run_ranks

STEPS = 12
COMMON = [f"trainer.max_steps={STEPS}", "trainer.save_every=5", "trainer.eval_every=8"]
EXPERIMENTS = {
    "supervised": ["+exp=reranker_contrastive"],  # with dropout
    # Saved at step 5 and left at step 6: in the middle of a batch, and of an epoch.
    "grpo": ["+exp=reranker_grpo", "trainer.num_iterations=2", "loss.num_generations=16", "loss.beta=0.1"],
}
# name: the engine at first, then
CHANGES = {"two_to_one": ("zero3", "torch"), "one_to_two": ("torch", "torch"), "stage": ("zero2", "zero3")}
COMPARED = ("loss", "grad_norm", "score_checksum", "reward_mean", "kl", "nDCG@10")
SAME = ("num_chunks", "padding_share", "documents_per_query")

Runs = dict[tuple[str, str], tuple[list[dict[str, float]], dict[str, torch.Tensor]]]


def commands(change: str, part: int, tiny_run: list[str]) -> list[list[str]]:
    engine = {**CHANGES, "whole": ("torch",)}[change][part]
    return [
        [*options, *tiny_run, *COMMON, f"engine={engine}", f"run_name={change}-{name}"]
        for name, options in EXPERIMENTS.items()
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: Callable[[Path], list[str]]) -> Runs:
    """Every run: those left at step 6 on two ranks or one, taken up on one or two."""
    tiny_run = [
        option
        for option in tiny_overrides(tmp_path_factory.mktemp("runs"))
        if not option.startswith(("trainer.optimizer=", "trainer.learning_rate="))  # AdamW at the trainer's own rate
    ]

    def left(*changes: str) -> list[tuple[list[str], int]]:
        return [(command, 6) for change in changes for command in commands(change, 0, tiny_run)]

    def taken_up(part: int, *changes: str) -> list[list[str]]:
        return [command for change in changes for command in commands(change, part, tiny_run)]

    run_ranks(run_until, 2, left("two_to_one", "stage"), timeout_s=280)
    run_ranks(run_until, 1, left("one_to_two"), timeout_s=280)
    ended: list[Any] = run_ranks(run_several, 1, taken_up(0, "whole") + taken_up(1, "two_to_one"))[0]
    ended += run_ranks(run_several, 2, taken_up(1, "one_to_two", "stage"), timeout_s=280)[0]
    names = [(change, name) for change in ("whole", "two_to_one", "one_to_two", "stage") for name in EXPERIMENTS]
    return dict(zip(names, ended, strict=True))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("change", CHANGES)
def test_the_run_goes_on_as_if_nothing_had_changed(runs: Runs, change: str, experiment: str) -> None:
    expected, weights = runs["whole", experiment]
    found, found_weights = runs[change, experiment]
    assert len(found) == len(expected) == STEPS + 3
    for one, two in zip(expected, found, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() & {*COMPARED}:
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), (name, one, two)
        assert [one.get(name) for name in SAME] == [two.get(name) for name in SAME]
    for name, value in weights.items():
        if not name.endswith("key.bias"):  # softmax ignores it: AdamW steps by the rounding of a gradient of 0
            torch.testing.assert_close(found_weights[name], value, rtol=1e-4, atol=1e-5)
