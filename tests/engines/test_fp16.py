"""fp16 with a loss scale: every engine repeats a step that overflows, and updates as float32 does up to rounding."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import ADAMW, ENGINES, SGD, Scorer, accumulate, assert_equal_run, plain_loop, schedule, weights

from engines.distributed import process_group
from engines.distributed.testing import run_ranks
from engines.loss_scale import LossScale
from engines.precision import TRAINING_PRECISIONS, autocast_dtype, check_precision
from engines.protocol import Engine, NotFinite, Overflow

# The last one replaces torch's linear layer in its process by one that adds up in another order.
KINDS = ("torch", "zero0", "zero1", "zero2", "zero2-by-chunk", "zero2-offload", "zero3")
FP16 = 2e-2  # relative tolerance of norms and weights: fp16 has 11 bits


def build(kind: str, options: Any, seed: int = 0) -> Engine:
    config = replace(ENGINES[kind], precision="fp16")
    return config.build(Scorer(seed), options, schedule, max_grad_norm=1.0)


def train(engine: Engine, steps: range) -> tuple[list[float], int]:
    """The norms, and how often a step was repeated."""
    norms, repeated = [], 0
    for step in steps:
        while True:
            accumulate(engine, step, 2)
            try:
                norms.append(engine.step())
                break
            except Overflow:
                repeated += 1
    return norms, repeated


def exercise(kind: str, folder: Path) -> dict[str, Any]:
    engine = build(kind, SGD)
    norms, repeated = train(engine, range(3))
    results: dict[str, Any] = {
        "sgd": (norms, weights(engine)),
        "repeated": repeated,
        "scale": engine.loss_scale,
        "learning rate": engine.learning_rate(),
    }
    results["refused"] = refuses_what_is_not_finite(engine)
    adamw = build(kind, ADAMW)
    train(adamw, range(2))
    folder.mkdir(exist_ok=True)
    process_group.barrier()
    adamw.shard().write(folder)
    process_group.barrier()
    results["uninterrupted"] = train(adamw, range(2, 4)), weights(adamw), adamw.loss_scale
    resumed = build(kind, ADAMW, seed=1)
    resumed.load(folder)
    results["resumed"] = train(resumed, range(2, 4)), weights(resumed), resumed.loss_scale
    return results


def refuses_what_is_not_finite(engine: Engine) -> dict[str, Any]:
    """A gradient that is NaN on rank 0 alone, whatever the scale."""
    before, scale, rate = weights(engine), engine.loss_scale, engine.learning_rate()
    repeated = 0
    while True:
        accumulate(engine, 7, 2, math.nan if process_group.rank() == 0 else 1.0)
        try:
            engine.step()
        except Overflow:
            repeated += 1
        except NotFinite as error:
            unchanged = all(torch.equal(before[name], value) for name, value in weights(engine).items())
            same = (engine.loss_scale, engine.learning_rate()) == (scale, rate)
            return {"repeated": repeated, "unchanged": unchanged and same, "message": str(error), "scale": scale}


def exercise_all(folder: Path) -> dict[str, dict[str, Any]]:
    return {kind: exercise(kind, folder / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return run_ranks(exercise_all, 2, tmp_path_factory.mktemp("fp16"), timeout_s=280)


@pytest.mark.parametrize("kind", KINDS)
def test_updates_equal_those_of_float32_up_to_rounding(two_ranks: list[Any], kind: str) -> None:
    """Unscaled before clipping: the norms are those of float32, above the limit of 1."""
    norms, final = plain_loop(SGD, 1.0, 3)
    for rank in two_ranks:
        found, weights_of_rank = rank[kind]["sgd"]
        assert found == pytest.approx(norms, rel=FP16)
        assert found != norms, "float32 was used"
        for name, value in final.items():
            assert (weights_of_rank[name] - value).abs().max() < FP16 * 0.1, name  # the learning rate is 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_overflows_is_repeated_and_no_update(two_ranks: list[Any], kind: str) -> None:
    """The gradients of the chunks are normal variables: times 65,536 some of them are above the largest number."""
    for rank in two_ranks:
        assert rank[kind]["repeated"] > 0
        assert rank[kind]["scale"] == 2.0 ** (16 - rank[kind]["repeated"])
        assert rank[kind]["learning rate"] == pytest.approx(0.1 / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_engines_and_ranks_agree(two_ranks: list[Any], kind: str) -> None:
    for rank in two_ranks:
        assert rank[kind]["scale"] == two_ranks[0]["torch"]["scale"]
        assert_equal_run(rank[kind]["sgd"], two_ranks[0]["torch"]["sgd"], 1e-3 if kind == "zero3" else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_at_any_scale_is_refused_and_costs_no_scale(two_ranks: list[Any], kind: str) -> None:
    for rank in two_ranks:
        refused = rank[kind]["refused"]
        assert refused["unchanged"]
        assert refused["repeated"] == math.log2(refused["scale"])
        assert "with a loss scale of 1 too" in refused["message"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_has_the_scale_and_is_equal_bit_by_bit(two_ranks: list[Any], kind: str) -> None:
    for rank in two_ranks:
        (norms, repeated), final, scale = rank[kind]["resumed"]
        (expected, _), weights_of_rank, expected_scale = rank[kind]["uninterrupted"]
        assert (norms, scale) == (expected, expected_scale)
        assert repeated == 0, "the scale is in the checkpoint"
        assert all(torch.equal(final[name], value) for name, value in weights_of_rank.items())


def alone() -> tuple[list[float], dict[str, torch.Tensor], float | None]:
    engine = build("torch", SGD)
    norms, _ = train(engine, range(3))
    return norms, weights(engine), engine.loss_scale


def test_one_rank_equals_two(two_ranks: list[Any]) -> None:
    norms, final, scale = alone()
    assert scale == two_ranks[0]["torch"]["scale"]
    assert_equal_run((norms, final), two_ranks[0]["torch"]["sgd"], 1e-5)


def test_the_scale_grows_and_its_state_is_restored() -> None:
    scale = LossScale(value=4.0)
    for _ in range(LossScale.GROWTH_INTERVAL - 1):
        scale.check(1.0)
    again = LossScale()
    again.load(scale.state())
    again.check(1.0)
    assert (scale.value, again.value) == (4.0, 8.0)
    with pytest.raises(Overflow, match=r"repeated with a loss scale of 4$"):
        again.check(math.inf)
    again.load(None)  # of a checkpoint in another precision
    assert again.value == 4.0


def test_fp16_is_for_engines_and_never_chosen() -> None:
    assert autocast_dtype("auto", torch.device("cpu")) is None
    assert autocast_dtype("fp16", torch.device("cpu")) is torch.float16
    check_precision("fp16", TRAINING_PRECISIONS)
    with pytest.raises(ValueError, match=r"engine.precision must be one of auto, fp32, bf16, got 'fp16'"):
        check_precision("fp16")


def test_fp32_has_no_scale() -> None:
    engine = ENGINES["torch"].build(Scorer(), SGD, schedule, max_grad_norm=1.0)
    assert engine.loss_scale is None
    assert "loss_scale" not in engine.shard().header
