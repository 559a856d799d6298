"""The memory plan: the step's arithmetic by hand, the command as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.memory.available import CPU_SHARE
from engines.memory.live_bytes import ChunkBytes, FakeTensorModel
from engines.memory.state_bytes import Parameters, StateBytes
from engines.memory.step_peak import step_peak
from engines.torch_engine import TorchEngineConfig
from launch.cli.compose import load
from launch.plan import main
from recipes.cost_plan.estimate import Estimate, Machine, estimate_memory, measure_process
from recipes.cost_plan.model_rows import AnyLength
from recipes.cost_plan.report import format_bytes
from recipes.cost_plan.shapes import chunk_shapes
from recipes.cost_plan.workload import ChunkCosts, build_workload
from trainers.refresh.rankings import QUERY_BLOCK

CHUNK = ChunkBytes(held=10.0, forward=12.0, backward=14.0, first_backward=15.0, no_graph=3.0)
ALL = Parameters(total=1, trainable=1, largest=1)  # 4 bytes


def test_a_step_whose_chunks_are_all_kept() -> None:
    states = StateBytes(weights=4.0, gradients=4.0, optimizer=8.0, update=1.0)
    # Three forwards hold 30; the first backward runs beside the other two chunks and makes the gradients.
    assert step_peak([CHUNK] * 3, 3, states, ALL) == 20 + 15
    assert step_peak([CHUNK], 1, states, ALL) == 15
    at_once = replace(states, at_once=True)  # made before the first backward
    assert step_peak([CHUNK] * 3, 3, at_once, ALL) == 20 + 4 + 14
    large = StateBytes(weights=4.0, gradients=100.0, optimizer=8.0, update=50.0)
    assert step_peak([CHUNK] * 3, 3, large, ALL) == 150


def test_chunks_that_are_not_kept_hold_nothing() -> None:
    states = StateBytes(weights=4.0, gradients=4.0, optimizer=8.0)
    assert step_peak([CHUNK] * 100, 0, states, ALL) == 4 + 14
    assert step_peak([CHUNK] * 100, 2, states, ALL) == 10 + 15  # as the first of the two kept ones ends


def test_zero_2_holds_its_share_and_a_bucket() -> None:
    share = StateBytes(weights=4.0, gradients=2.0, optimizer=4.0, reduction=5.0, update=1.0)
    assert step_peak([CHUNK] * 2, 2, share, ALL) == 10 + 2 + 5 + 14


def test_costs_are_exact_between_the_shapes_that_were_traced(tiny_run: list[str]) -> None:
    settings = load(["+exp=reranker_contrastive", *tiny_run])
    workload = build_workload(settings, None, autocast=None)
    costs = ChunkCosts(workload, [(2, 40), (3, 30), (4, 24), (6, 16), (5, 20), (8, 12), (3, 35)])
    for shape in ((3, 33), (7, 14)):
        found, exact = costs(shape), workload.model.chunk(workload.features, *shape)
        assert found.held == pytest.approx(exact.held, rel=0.01)
        assert found.first_backward == pytest.approx(exact.first_backward, rel=0.05)


def test_equal_models_are_traced_once(tiny_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[float] = []
    chunk = FakeTensorModel.chunk

    def counted(model: FakeTensorModel, *given: Any) -> Any:
        traced.append(chunk(model, *given).held)
        return ChunkBytes(*[traced[-1]] * 5)

    monkeypatch.setattr(FakeTensorModel, "chunk", counted)
    monkeypatch.setattr("recipes.cost_plan.workload._TRACES", {})

    def held(experiment: str, *options: str, autocast: torch.dtype | None = None) -> float:
        settings = load([f"+exp={experiment}", *tiny_run, *options])
        return ChunkCosts(build_workload(settings, None, autocast=autocast), [(2, 40)])((2, 40)).held

    first = held("reranker_contrastive")
    number = len(traced)
    assert held("reranker_listwise", "trainer.learning_rate=1e-3") == first
    assert len(traced) == number
    held("reranker_bce")  # its loss trains the bias of the score
    assert len(traced) == 2 * number
    assert held("reranker_contrastive", autocast=torch.bfloat16) < first
    assert held("reranker_contrastive", "model.gradient_checkpointing=true") < first
    assert held("reranker_contrastive", "model.num_layers=1") < first
    assert len(traced) == 5 * number


def test_the_data_are_read_as_the_run_would(tiny_run: list[str]) -> None:
    settings = load(["+exp=reranker_contrastive", *tiny_run])
    workload = build_workload(settings, settings.data.build(), autocast=None)
    assert len(workload.batches) == 8
    assert all(0 < length <= 48 for lengths in workload.batches for length in lengths)
    longest = build_workload(settings, None, autocast=None)
    assert longest.batches == [[48] * 21]
    assert chunk_shapes(longest.batches[0], 160) == [(2, 48), (1, 48), *[(3, 48)] * 6]  # one of 7 is halved


def test_texts_of_any_length_need_the_data(tiny_run: list[str]) -> None:
    own = [each for each in tiny_run if not each.startswith("model.max_length=")]
    whole = ["+exp=embedder_infonce", *own, "model=static_embedder", "model.start=random", "model.dimension=8"]
    settings = load([*whole, "eval.depth=100", "data.lists.no_duplicates=false"])
    with pytest.raises(AnyLength, match=r"as model\.max_length is null: set model\.max_length=512"):
        build_workload(settings, None, autocast=None)
    of_data = build_workload(settings, settings.data.build(), autocast=None)
    assert 0 < max(map(max, of_data.batches)) < 200
    cut = load([*whole, "eval.depth=100", "model.max_length=30"])
    assert {length for row in build_workload(cut, None, autocast=None).batches for length in row} == {30}


@pytest.mark.parametrize("experiment", ["llm_reranker_sft", "llm_reranker_grpo"])
def test_a_language_model_has_a_plan(experiment: str, tiny_run: list[str], tiny_models, tmp_path: Path) -> None:
    folder = tiny_models.write_tiny_causal(tmp_path / "llm")
    model = [f"model.name_or_path={folder}", "model.max_length=160", "model.template=qwen3", "trainer.token_budget=400"]
    settings = load([f"+exp={experiment}", *tiny_run, *model])
    workload = build_workload(settings, settings.data.build(), autocast=None)
    assert workload.model.chunk(workload.features, 2, 100).held > 0
    assert workload.pack is not None
    assert workload.pack.prefix > 4 * workload.pack.own, "the template is long, and the documents are a few words"
    separate = load([f"+exp={experiment}", *tiny_run, *model, "model.shared_prefix=false"])
    plain = build_workload(separate, separate.data.build(), autocast=None)
    assert plain.pack is None
    assert sum(workload.batches[0]) < 0.5 * sum(plain.batches[0])
    # A pack of two prompts holds more than a row of its length (keys are copied), and less than its two prompts.
    length = round(workload.pack.prefix + 2 * workload.pack.own)
    held = workload.model.chunk(workload.features, 1, length).held
    one = round(workload.pack.prefix + workload.pack.own)
    assert plain.model.chunk(plain.features, 1, length).held < held < plain.model.chunk(plain.features, 2, one).held


def test_more_ranks_hold_less_and_a_reference_holds_more(tiny_run: list[str], tiny_reranker_dir: Path) -> None:
    machine = Machine("cuda", 2.0**30, 8)

    def found(ranks: int, *options: str) -> Estimate:
        settings = load([options[0], *tiny_run, *options[1:], f"model.name_or_path={tiny_reranker_dir}"])
        workload = build_workload(settings, None, autocast=None)
        assert isinstance(workload.model, FakeTensorModel)
        costs = ChunkCosts(workload, [(3, 48), (2, 40)])
        return estimate_memory(workload, TorchEngineConfig(), ranks, costs, machine, 0.0)

    kept = ["+exp=reranker_contrastive", "trainer.kept_chunks=8"]
    alone = found(1, "+exp=reranker_preference", "trainer.reference=precomputed").peak
    assert 5 * found(8, *kept).activations < found(1, *kept).activations
    copied = found(1, "+exp=reranker_preference", "trainer.reference=frozen").peak
    parameters = build_workload(load([*kept, *tiny_run]), None, autocast=None).parameters
    assert copied - alone == pytest.approx(4 * parameters.total, rel=0.01)


def test_auto_keeps_as_many_chunks_as_fit(tiny_run: list[str]) -> None:
    settings = load(["+exp=reranker_contrastive", *tiny_run, "eval.token_budget=48"])
    workload = build_workload(settings, None, autocast=None)
    costs = ChunkCosts(workload, [(3, 48), (2, 40)])

    def found(machine: Machine, kept_chunks: int | str) -> Estimate:
        trainer = replace(settings.trainer, kept_chunks=kept_chunks)
        own = replace(workload, settings=replace(settings, trainer=trainer), reading_bytes=0)
        return estimate_memory(own, TorchEngineConfig(), 1, costs, machine, 0.0)

    for device in ("cuda", "cpu"):
        share = 0.9 if device == "cuda" else CPU_SHARE
        for kept in (1, 3, 7):
            peak = found(Machine(device, 1e12, 1), kept).peak
            estimate = found(Machine(device, (peak + 1) / share, 1), "auto")
            assert (estimate.kept_chunks, estimate.peak) == (kept, peak)
        assert found(Machine(device, 1e12, 1), "auto").kept_chunks == estimate.num_chunks == 8
        assert found(Machine(device, 1.0, 1), "auto").kept_chunks == 1


def test_a_process_is_measured() -> None:
    assert 50 * 2**20 < measure_process(TorchEngineConfig()) < 4 * 2**30


def test_the_command(tiny_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["+exp=reranker_contrastive", *tiny_run, "engine=zero2"]
    main(["--device", "cpu", "--ranks", "1,2", *settings])
    printed = capsys.readouterr().out
    assert "reranker_contrastive:" in printed
    assert printed.count("<- engine=zero2") == 2
    assert "on 2 rank(s): " in printed
    assert "a rank receives gradients " in printed
    assert "of the rate of a large matrix product on this machine" in printed
    gpus = ["--device", "cuda", "--memory", "0.000001", "--gpu", "a100"]
    main(["--json", "--ranks", "2", *gpus, "--longest", *settings])
    [plan] = json.loads(capsys.readouterr().out).values()
    assert plan["assumptions"].startswith("assumed, not measured: a100")
    for row in plan["estimates"]:
        assert row["step_s"] == pytest.approx(sum(row["step_parts_s"].values()))
        assert row["received_bytes"]["gradients"] >= 4 * 27_000
        assert row["lowest"] == row["peak"] == row["highest"]
    assert [row["engine"] for row in plan["estimates"]] == ["torch", "zero0", "zero1", "zero2", "zero3"]
    assert not any(row["fits"] for row in plan["estimates"])
    assert plan["parameters"]["total"] == 27_553


def test_a_run_with_stages_has_a_plan_of_each(
    tiny_overrides: Callable[[Path], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            "--json",
            "--ranks",
            "1",
            "--device",
            "cpu",
            "--longest",
            "+exp=reranker_three_stage",
            *tiny_overrides(tmp_path),
        ]
    )
    assert list(json.loads(capsys.readouterr().out)) == ["grpo", "contrastive", "preference"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["+exp=nope"], "+exp=nope is not a choice"),
        (["--ranks", "0"], "--ranks: 0: numbers of at least 1"),
        (["--memory", "0"], "--memory: 0: a number above 0"),
        (["--memory", "nan"], "--memory: nan: a number above 0"),
        (["--network", "0"], "--network: 0: a number above 0"),
        (["--gpu", "tpu"], "--gpu"),
        (["--ranks-per-node", "0"], "--ranks-per-node: 0: a number of at least 1"),
        (["--lr", "3"], "--lr"),
        (["--device", "cuda"], "give its memory, --memory GIB"),
        (["--longest", "+exp=reranker_grpo", "model.name_or_path=./nowhere"], "./nowhere"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], expected: str) -> None:
    with pytest.raises((ValueError, OSError)) as error:
        main(arguments)
    assert expected in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_mistake_ends_the_process_with_one_line() -> None:
    script = Path(__file__).parents[2] / "launch" / "plan.py"
    ended = subprocess.run([sys.executable, script, "+exp=nowhere"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: +exp=nowhere is not a choice")
    assert len(ended.stderr.splitlines()) == 1


def test_sizes() -> None:
    assert [format_bytes(count) for count in (0, 10, 1.5 * 2**20, 3 * 2**30)] == [
        "0",
        "<0.1 MiB",
        "1.5 MiB",
        "3.00 GiB",
    ]


def test_a_refresh_holds_the_embeddings_of_all_queries_and_of_a_block(tiny_run: list[str]) -> None:
    def searched(*options: str) -> float:
        settings = load([*tiny_run, *options])
        return build_workload(settings, settings.data.build(), autocast=None).search_bytes

    embedder = ["+exp=embedder_infonce", "eval.depth=100"]
    assert searched(*embedder) == 0
    block = 4 * 32 * 2 * 16384 + QUERY_BLOCK * 16384 * (4 + 2 * 8)
    assert searched(*embedder, "trainer.refresh_every=2") == 24 * (4 * 32 + 8 * 100) + block
    assert searched(*embedder, "trainer.refresh_every=2", "trainer.refresh_queries=5") == 5 * (4 * 32 + 8 * 100) + block
    assert searched("+exp=reranker_contrastive", "trainer.refresh_every=2") == 0
