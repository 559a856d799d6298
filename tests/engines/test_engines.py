"""Every engine gives the same norms and weights as a plain loop, for several chunks, kept graphs and two ranks."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from engine_cases import (
    ADAMW,
    ENGINES,
    PARTITION_ALL,
    SGD,
    Scorer,
    accumulate,
    assert_equal_run,
    chunks,
    plain_loop,
    schedule,
    train,
    weights,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed import process_group
from engines.distributed.testing import run_ranks
from engines.protocol import Engine

# Other ways to accumulate the chunks of a step; only compared with the plain loop.
OVERLAP = {"overlap_comm": True, "reduce_bucket_size": 300}  # several buckets: two buffers take turns
VARIANTS: dict[str, Any] = {
    "zero1-overlap": DeepSpeedEngineConfig(stage=1, config={"zero_optimization": OVERLAP}),
    "zero2-overlap": DeepSpeedEngineConfig(stage=2, coalesce=False, config={"zero_optimization": OVERLAP}),
    "zero2-reduce-to-owners": DeepSpeedEngineConfig(
        stage=2, coalesce=False, config={"zero_optimization": {"use_multi_rank_bucket_allreduce": False}}
    ),
    "zero3-without-overlap": DeepSpeedEngineConfig(
        stage=3, config={"zero_optimization": {**PARTITION_ALL["zero_optimization"], "overlap_comm": False}}
    ),
    "zero1-offload": DeepSpeedEngineConfig(stage=1, offload="optimizer"),
    "zero3-offload-optimizer": DeepSpeedEngineConfig(stage=3, offload="optimizer", config=PARTITION_ALL),
    "zero3-coalesce": DeepSpeedEngineConfig(stage=3, coalesce=True, config=PARTITION_ALL),
    "zero2-offload-by-chunk": DeepSpeedEngineConfig(stage=2, offload="optimizer", coalesce=False),
    "zero3-offload-coalesce": DeepSpeedEngineConfig(stage=3, offload="all", coalesce=True, config=PARTITION_ALL),
}


def exercise(kind: str, folder: Path) -> dict[str, Any]:
    """All checks of one engine on this rank. They share a process, since DeepSpeed takes seconds to start."""
    config = ENGINES[kind]
    results = accumulation(config)
    engine = config.build(Scorer(), ADAMW, schedule, max_grad_norm=math.inf)
    train(engine, range(2))
    engine.shard().write(folder)
    process_group.barrier()
    results["uninterrupted"] = train(engine, range(2, 4)), weights(engine), engine.learning_rate()
    resumed = config.build(Scorer(seed=1), ADAMW, schedule, max_grad_norm=math.inf)
    resumed.load(folder)
    results["resumed"] = train(resumed, range(2, 4)), weights(resumed), resumed.learning_rate()
    resumed.load(folder)  # go back from a later state
    results["rolled back"] = train(resumed, range(2, 4)), weights(resumed), resumed.learning_rate()
    kinds = [*ENGINES]
    resumed.load(folder.with_name(kinds[max(kinds.index(kind) - 1, 0)]))
    results["of another engine"] = train(resumed, range(2, 4)), weights(resumed), resumed.learning_rate()

    half = replace(config, precision="bf16").build(Scorer(), SGD, schedule, max_grad_norm=1.0)
    half.model.eval()
    with torch.no_grad():
        results["bf16"] = half.forward({"input_ids": chunks(0)[0][0]})["score"]
    return results


def accumulation(config: Any) -> dict[str, Any]:
    """Steps with some chunks and with all of them kept, and steps after a gradient that is not finite."""
    results: dict[str, Any] = {}
    for kept in (1, 3):
        engine = config.build(Scorer(), SGD, schedule, max_grad_norm=1.0)
        results[f"sgd, {kept} kept"] = train(engine, range(3), kept), weights(engine), engine.learning_rate()
    results["after errors"] = _survives_non_finite(engine), weights(engine)
    return results


def _survives_non_finite(engine: Engine) -> list[float]:
    """Train steps 3-4, after every rank has refused gradients that are not finite on rank 0 only."""
    before = weights(engine)
    for factor in (math.nan, math.inf):
        accumulate(engine, 7, 2, factor if process_group.rank() == 0 else 1.0)
        with pytest.raises(FloatingPointError, match="not finite"):
            engine.step()
        assert all(torch.equal(before[name], value) for name, value in weights(engine).items())
    return train(engine, range(3, 5))


def exercise_all(folder: Path) -> dict[str, dict[str, Any]]:
    results = {}
    for kind in ENGINES:
        if process_group.is_main():
            (folder / kind).mkdir()
        process_group.barrier()
        results[kind] = exercise(kind, folder / kind)
    return results | {kind: accumulation(config) for kind, config in VARIANTS.items()}


def exercise_alone(folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Use DeepSpeed as `python launch/train.py` does: no process group, no environment variables, no compiler."""
    dist.destroy_process_group()
    os.environ["PATH"] = ""
    assert "LOCAL_RANK" not in os.environ
    engine = ENGINES["zero2"].build(Scorer(), SGD, schedule, max_grad_norm=1.0)
    return train(engine, range(3)), weights(engine)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> list[dict[str, dict[str, Any]]]:
    return run_ranks(exercise_all, 2, folder, timeout_s=280)


@pytest.mark.parametrize("kind", [*ENGINES, *VARIANTS])
@pytest.mark.parametrize("kept", [1, 3])
def test_two_ranks_equal_a_plain_loop(two_ranks: list[Any], kind: str, kept: int) -> None:
    expected = plain_loop(SGD, 1.0, 3)
    assert min(expected[0]) > 1, "clipping must act"
    for rank in two_ranks:
        norms, final, learning_rate = rank[kind][f"sgd, {kept} kept"]
        assert_equal_run((norms, final), expected)
        assert learning_rate == pytest.approx(0.1 / 4)


@pytest.mark.parametrize("kind", [*ENGINES, *VARIANTS])
def test_non_finite_gradient_of_one_rank_changes_nothing(two_ranks: list[Any], kind: str) -> None:
    norms, final = plain_loop(SGD, 1.0, 5)
    for rank in two_ranks:
        assert_equal_run(rank[kind]["after errors"], (norms[3:], final))


@pytest.mark.parametrize("kind", ENGINES)
def test_adamw_without_clipping_equals_a_plain_loop(two_ranks: list[Any], kind: str) -> None:
    norms, final = plain_loop(ADAMW, math.inf, 4)
    for rank in two_ranks:
        assert_equal_run(rank[kind]["uninterrupted"], (norms[2:], final))


@pytest.mark.parametrize("kind", ENGINES)
def test_resumed_equals_uninterrupted(two_ranks: list[Any], kind: str) -> None:
    for rank in two_ranks:
        assert_equal_run(rank[kind]["resumed"], rank[kind]["uninterrupted"], 1e-7)
        assert rank[kind]["resumed"][2] == rank[kind]["uninterrupted"][2]


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_returns_to_a_checkpoint(two_ranks: list[Any], kind: str) -> None:
    for rank in two_ranks:
        assert_equal_run(rank[kind]["rolled back"], rank[kind]["resumed"], 1e-7)


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_continues_what_another_has_written(two_ranks: list[Any], kind: str) -> None:
    for rank in two_ranks:
        assert_equal_run(rank[kind]["of another engine"], rank[kind]["uninterrupted"])
        assert rank[kind]["of another engine"][2] == rank[kind]["uninterrupted"][2]


@pytest.mark.parametrize("kind", ENGINES)
def test_ranks_write_each_element_once(two_ranks: list[Any], folder: Path, kind: str) -> None:
    files = sorted((folder / kind).glob("*.safetensors"))
    shards = [load_file(file) for file in files]
    written = {key: sum(len(v) for s in shards for n, v in s.items() if n.startswith(key)) for key in ("weight", "exp")}
    trainable = sum(value.numel() for value in Scorer().parameters() if value.requires_grad)
    assert len(files) == 2
    assert written == {"weight": trainable, "exp": 2 * trainable}
    assert all(sum(len(value) for value in shard.values()) < 0.6 * 3 * trainable for shard in shards)


@pytest.mark.parametrize("kind", ENGINES)
def test_bf16_forward_returns_float32(two_ranks: list[Any], kind: str) -> None:
    half = two_ranks[0][kind]["bf16"]
    full = Scorer().eval()(input_ids=chunks(0)[0][0])["score"]
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.05


def test_deepspeed_alone_needs_no_environment_and_no_compiler(tmp_path: Path) -> None:
    assert_equal_run(run_ranks(exercise_alone, 1, tmp_path)[0], plain_loop(SGD, 1.0, 3))


def test_torch_engine_alone_equals_a_plain_loop_bit_by_bit() -> None:
    engine = ENGINES["torch"].build(Scorer(), SGD, schedule, max_grad_norm=1.0)
    norms, final = plain_loop(SGD, 1.0, 3)
    assert train(engine, range(3), kept=0) == norms
    assert all(torch.equal(value, final[name]) for name, value in weights(engine).items())


def test_a_run_that_starts_from_a_checkpoint_of_another_has_its_own_learning_rate(tmp_path: Path):
    engine = ENGINES["torch"].build(Scorer(), ADAMW, schedule, max_grad_norm=1.0)
    train(engine, range(2))
    engine.shard().write(tmp_path)
    lower = replace(ADAMW, learning_rate=ADAMW.learning_rate / 8)
    started = ENGINES["torch"].build(Scorer(), lower, schedule, max_grad_norm=1.0)
    started.load(tmp_path)
    assert started.learning_rate() == engine.learning_rate() / 8
    train(engine, range(2, 3))
    train(started, range(2, 3))
    assert started.learning_rate() == engine.learning_rate() / 8


def on_one_rank(folder: Path) -> dict[str, Any]:
    """Continue on one rank what two ranks have written, and write what two ranks will continue."""
    results: dict[str, Any] = {}
    for kind, source in FROM_TWO_TO_ONE.items():
        engine = ENGINES[kind].build(Scorer(seed=1), ADAMW, schedule, max_grad_norm=math.inf)
        engine.load(folder / source)
        results[kind] = train(engine, range(2, 4)), weights(engine), engine.learning_rate()
        (folder / f"{kind}-alone").mkdir()
        engine.shard().write(folder / f"{kind}-alone")
    with pytest.raises(ValueError, match=r"holds no checkpoint: engine.json is missing"):
        engine.load(folder)
    return results


def on_two_ranks_again(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for kind, source in FROM_ONE_TO_TWO.items():
        engine = ENGINES[kind].build(Scorer(seed=1), ADAMW, schedule, max_grad_norm=math.inf)
        engine.load(folder / f"{source}-alone")
        results[kind] = train(engine, range(4, 6)), weights(engine), engine.learning_rate()
    return results


FROM_TWO_TO_ONE = {"torch": "zero3", "zero2": "zero2", "zero3": "zero2"}
FROM_ONE_TO_TWO = {"torch": "torch", "zero1": "zero3", "zero3": "zero2"}


@pytest.fixture(scope="module")
def one_rank(two_ranks: list[Any], folder: Path) -> dict[str, Any]:
    return run_ranks(on_one_rank, 1, folder)[0]


@pytest.mark.parametrize("kind", FROM_TWO_TO_ONE)
def test_one_rank_continues_what_two_have_written(two_ranks: list[Any], one_rank: dict[str, Any], kind: str) -> None:
    assert_equal_run(one_rank[kind], two_ranks[0][kind]["uninterrupted"])
    assert one_rank[kind][2] == two_ranks[0][kind]["uninterrupted"][2]


def test_two_ranks_continue_what_one_has_written(one_rank: dict[str, Any], folder: Path) -> None:
    norms, final = plain_loop(ADAMW, math.inf, 6)
    for rank in run_ranks(on_two_ranks_again, 2, folder):
        assert rank.keys() == FROM_ONE_TO_TWO.keys()
        for result in rank.values():
            assert_equal_run(result, (norms[4:], final))


def test_another_model_is_refused(two_ranks: list[Any], folder: Path) -> None:
    other, renamed = Scorer(), Scorer()
    other.unused = nn.Linear(2, 2)
    renamed.renamed = renamed.unused
    del renamed.unused
    for model, differing in ((other, "differing: shapes"), (renamed, "'renamed.weight'.*'unused.weight'")):
        with pytest.raises(ValueError, match=f"zero2 holds another model's weights.*{differing}"):
            ENGINES["torch"].build(model, ADAMW, schedule, max_grad_norm=1.0).load(folder / "zero2")


def test_a_shard_that_lacks_elements_is_refused(two_ranks: list[Any], folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "zero2", tmp_path / "zero2")
    shutil.copy(copy / "rank-00000.safetensors", copy / "rank-00001.safetensors")
    with pytest.raises(ValueError, match=r"zero2 lacks elements of weight/"):
        ENGINES["torch"].build(Scorer(), ADAMW, schedule, max_grad_norm=1.0).load(copy)
