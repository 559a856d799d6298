"""Distillation in whole runs: the scale of a teacher's scores and the projection to its dimension, on ranks, engines,
after a kill, and in exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from running import make_trainer, run_several, run_to_the_end, run_until

from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from losses.math.share import ALONE
from models.bi_encoder import BiEncoder
from models.cross_encoder import CrossEncoder, CrossEncoderConfig
from models.lora import LoRAConfig
from recipes.training_run import train
from trainers.teacher_scale import POOLED, standardized_inputs

POINTWISE = ["+exp=reranker_distill_pointwise", "trainer.max_steps=4", "trainer.eval_every=2", "trainer.save_every=2"]
EMBEDDINGS = ["+exp=embedder_distill_embeddings", "trainer.max_steps=4", "trainer.eval_every=2", "trainer.save_every=2"]
MEAN, DEVIATION = 50.0, 8.0  # added to the tiny teacher's scores, and a factor of them


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> dict[str, Path]:
    """A reranker whose scores are far from 0, whose export asks for a sigmoid, and an embedder of 16 dimensions."""
    folder = tmp_path_factory.mktemp("teachers")
    reranker = CrossEncoderConfig(str(tiny_models.write_tiny_bert(folder / "plain", reranker=True, seed=1))).build(0)
    reranker.scale_scores(MEAN, DEVIATION)
    reranker.activation = torch.nn.Sigmoid()
    reranker.export(folder / "reranker")
    embedder = tiny_models.write_tiny_bert(folder / "embedder", seed=2, hidden_size=16, intermediate_size=32)
    return {"reranker": folder / "reranker", "embedder": embedder}


def runs(tiny_run: list[str], teachers: dict[str, Path]) -> list[list[str]]:
    """From a fresh head; with a projection; by similarities."""
    embedder = [*EMBEDDINGS, *tiny_run, f"teacher.name_or_path={teachers['embedder']}", "teacher.max_length=48"]
    embedder += ["eval.depth=100"]
    return [
        [*POINTWISE, *tiny_run, f"teacher.name_or_path={teachers['reranker']}", "teacher.max_length=48"],
        [*embedder, "model.teacher_projection=16"],
        [*embedder, "loss=similarity_distillation", "run_name=similarities"],
    ]


@pytest.fixture(scope="module")
def one_process(
    tmp_path_factory: pytest.TempPathFactory, tiny_overrides: Callable[[Path], list[str]], teachers: dict[str, Path]
):
    options = runs(tiny_overrides(tmp_path_factory.mktemp("one")), teachers)
    return run_ranks(run_several, 1, options, timeout_s=280)[0]


@pytest.mark.parametrize(("engine", "ranks"), [("torch", 4), ("zero3", 2)])
def test_ranks_and_engines_equal_one_process(engine, ranks, tiny_run: list[str], teachers, one_process) -> None:
    options = [[*run, f"engine={engine}"] for run in runs(tiny_run, teachers)]
    several = run_ranks(run_several, ranks, options, timeout_s=280)
    for (expected, weights), (found, found_weights) in zip(one_process, several[0], strict=True):
        assert len({line["loss"] for line in expected if line["split"] == "train"}) == 4
        for one, two in zip(expected, found, strict=True):
            for name in one.keys() & {"loss", "grad_norm", "nDCG@10"}:
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
        torch.testing.assert_close(found_weights, weights, rtol=1e-5, atol=1e-6)


def test_a_projection_is_trained_and_saved(one_process) -> None:
    (_, plain), (_, weights), (_, without) = one_process
    name = "teacher_projection.linear.weight"
    assert weights[name].shape == (16, 32)
    assert name not in plain | without


def test_a_killed_run_continues_with_the_scale_of_its_teacher(tiny_run: list[str], teachers, one_process) -> None:
    [reranker, embedder, _] = runs(tiny_run, teachers)
    run_until([(reranker, 3), (embedder, 3)])
    for options, (expected, weights) in zip((reranker, embedder), one_process, strict=False):
        found, found_weights = run_to_the_end(options)
        for one, two in zip(expected, found, strict=True):
            assert two.get("loss", 0) == pytest.approx(one.get("loss", 0), rel=1e-5)
        torch.testing.assert_close(found_weights, weights, rtol=1e-6, atol=1e-7)


def test_a_fresh_head_starts_at_the_teachers_scale_and_so_does_the_export(tiny_run: list[str], teachers) -> None:
    [options, *_] = runs(tiny_run, teachers)
    trainer = make_trainer(options)
    trainer.start()
    mean, deviation = trainer.state.teacher_scales[POOLED]
    batches = list(trainer.batches.read(range(4)))
    teacher = trainer.auxiliary_models["teacher"]
    scores = torch.cat([teacher.forward(batch, ALONE).list_scores()[batch.mask] for batch in batches])
    assert scores.min() > 2, "raw scores, although the teacher's export has a sigmoid"
    assert mean == pytest.approx(scores.mean().item(), rel=1e-5)
    assert deviation == pytest.approx(scores.std(correction=0).item(), rel=1e-4)
    assert trainer.engine.model.score_scale == (mean, deviation)
    folder = trainer.run.path / "model"
    model = trainer.engine.model.eval()
    model.export(folder)
    rows = {"input_ids": torch.tensor([[2, 60, 70, 3, 65, 3]]), "attention_mask": torch.ones(1, 6, dtype=torch.int64)}
    with torch.no_grad():
        here, there = model(**rows)["score"], CrossEncoder.load(folder)(**rows)["score"]
    torch.testing.assert_close(there, here)
    assert abs(here.item() - mean) < 10 * deviation


def test_adapters_are_exported_on_the_teachers_scale_too(tmp_path: Path, tiny_bert_dir: Path) -> None:
    model = CrossEncoderConfig(str(tiny_bert_dir), lora=LoRAConfig(r=2)).build(seed=0).eval()
    model.scale_scores(MEAN, DEVIATION)
    rows = {"input_ids": torch.tensor([[2, 60, 70, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    for name, adapter_only in (("merged", False), ("adapter", True)):
        model.export(tmp_path / name, adapter_only=adapter_only)
        with torch.no_grad():
            found = CrossEncoder.load(tmp_path / name)(**rows)["score"]
            torch.testing.assert_close(found, model(**rows)["score"], atol=1e-4, rtol=0)


def test_a_run_of_a_few_steps_exports_no_projection(tiny_run: list[str], teachers, tmp_path: Path) -> None:
    train(load(runs(tiny_run, teachers)[1]))
    folder = tmp_path / "outputs" / "embedder_distill_embeddings" / "model"
    assert {part["type"].rpartition(".")[2] for part in json.loads((folder / "modules.json").read_text())} == {
        "Transformer",
        "Pooling",
        "Normalize",
    }
    assert BiEncoder.load(folder).dimension == 32


def test_a_trained_head_keeps_its_scale(tiny_run: list[str], teachers, tiny_reranker_dir: Path) -> None:
    [options, *_] = runs(tiny_run, teachers)
    trainer = make_trainer([*options, f"model.name_or_path={tiny_reranker_dir}"])
    trainer.start()
    assert trainer.state.teacher_scales
    assert trainer.state.score_scale is None
    assert trainer.engine.model.score_scale is None


def test_the_scores_of_every_data_set_are_brought_to_one_scale(tmp_path: Path, tiny_run: list[str]) -> None:
    """Two data sets with scores in the data, of teachers of very different scales."""
    for name, factor in (("a", 1.0), ("b", 100.0)):
        rows = [
            {
                "query": f"red {name} {i}",
                "docs": [f"apple {i} {j}" for j in range(4)],
                "scores": [factor * (i + j) for j in range(4)],
            }
            for i in range(12)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["data=mixture", *(f"+data@data.sources.{name}=file" for name in "ab")]
    data += [f"data.sources.{name}.path={tmp_path / name}.jsonl" for name in "ab"]
    data += [f"data.sources.{name}.cache_dir={tmp_path}" for name in "ab"]
    plain = [option for option in tiny_run if not option.startswith("data")]
    trainer = make_trainer(["+exp=reranker_distill_pointwise", "teacher=null", *plain, *data, "trainer.max_steps=12"])
    trainer.start()
    scales = trainer.state.teacher_scales
    assert set(scales) == {"a", "b", POOLED}
    assert scales["b"][1] == pytest.approx(100 * scales["a"][1], rel=0.3)
    mean, deviation = scales[POOLED]
    for batch in trainer.batches.read(range(8)):
        inputs = standardized_inputs(scales, batch, trainer.loss_of(batch), None, torch.device("cpu"), ALONE)
        assert inputs["teacher_deviation"].item() == pytest.approx(deviation)
        own = scales[batch.source]
        expected = (batch.teacher_scores - own[0]) / own[1]
        torch.testing.assert_close((inputs["teacher_scores"] - mean) / deviation, expected, atol=1e-4, rtol=0)
    trainer.fit()


def test_a_teacher_without_a_scale_is_told(tmp_path: Path, tiny_run: list[str]) -> None:
    rows = [{"query": f"red {i}", "docs": ["apple", "pear"], "scores": [1, 1]} for i in range(12)]
    (tmp_path / "equal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = [option for option in tiny_run if not option.startswith("data")]
    data = ["teacher=null", "data=file", f"data.path={tmp_path / 'equal.jsonl'}", f"data.cache_dir={tmp_path}"]
    trainer = make_trainer(["+exp=reranker_distill_pointwise", *plain, *data])
    with pytest.raises(ValueError, match=r"loss.standardize=true: the teacher's scores are all equal in the first"):
        trainer.start()


def test_other_dimensions_are_told_before_anything_is_scored(tiny_run: list[str], teachers) -> None:
    options = [option for option in runs(tiny_run, teachers)[1] if "projection" not in option]
    with pytest.raises(ValueError, match=r"32 dimensions with the teacher's of 16: set model.teacher_projection=16"):
        make_trainer(options)
    with pytest.raises(ValueError, match=r"20 dimensions with the teacher's of 16"):
        make_trainer([*options, "model.teacher_projection=20"])
