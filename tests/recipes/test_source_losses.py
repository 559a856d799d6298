"""The losses of a mixture's data sets in the settings: how they are chosen, and what does not fit, in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from launch.cli.compose import compose, instantiate, load
from losses.bce import BinaryCrossEntropy
from losses.cosent import CoSENT
from losses.info_nce import InfoNCE
from recipes.checks.compatibility import check_parts
from recipes.chosen_losses import losses_of
from recipes.cost_plan.estimate import Machine, make_plans
from recipes.cost_plan.workload import build_workload
from recipes.preparation import prepare
from recipes.training_run import train
from runs.settings_tree import as_tree

A, B = "data.sources.a.loss", "data.sources.b.loss"
EMBEDDER = ["model=bi_encoder", "trainer=contrastive", "eval=retrieval", "eval.depth=100", "loss=info_nce"]
RERANKER = ["model=cross_encoder", "trainer=ranking", "loss=softmax_cross_entropy"]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """a: positive pairs. b: lists with labels and a teacher's scores."""
    folder = tmp_path_factory.mktemp("mixture")
    pairs = [{"query": f"the query {i}", "positive": f"red document {i}"} for i in range(30)]
    lists = [
        {
            "query": f"what is {i}",
            "documents": [f"blue value {i}", f"green value {i}"],
            "labels": [1, 0],
            "scores": [0.5, -1],
        }
        for i in range(30)
    ]
    for name, rows in (("a", pairs), ("b", lists)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "data=mixture",
        *(f"+data@data.sources.{name}=file" for name in "ab"),
        *(f"data.sources.{name}.path={folder / name}.jsonl" for name in "ab"),
        *(f"data.sources.{name}.cache_dir={folder}" for name in "ab"),
        "data.weights={a: 1, b: 1}",
    ]


def test_a_name_chooses_the_file_of_a_loss_and_its_options_can_be_set(mixture: list[str]) -> None:
    settings = load([*EMBEDDER, f"{A}.temperature=0.1", f"{A}=cosent", *mixture])
    assert settings.data.sources["a"].loss == CoSENT(temperature=0.1)
    assert losses_of(settings).by_source == {"a": CoSENT(temperature=0.1), "b": InfoNCE()}
    assert losses_of(settings).of("b") is settings.loss
    assert losses_of(load([*EMBEDDER, *mixture])).by_source == {"a": InfoNCE(), "b": InfoNCE()}
    for chosen in (f"+{A}=bce", f"+loss@{A}=bce", f"{A}={{_target_: losses.bce.BinaryCrossEntropy}}"):
        assert load([*EMBEDDER, chosen, *mixture]).data.sources["a"].loss == BinaryCrossEntropy()
    assert load([*EMBEDDER, f"{A}=null", *mixture]).data.sources["a"].loss is None


@pytest.mark.parametrize("choice", ["matryoshka_2d", "cross_entropy_and_distillation", "plackett_luce_grpo", "gist"])
def test_a_loss_is_the_same_there(choice: str) -> None:
    tree = compose(["data=mixture", "+data@data.sources.a=file", "data.sources.a.path=x", f"{A}={choice}"])
    assert tree["data"]["sources"]["a"]["loss"] == compose([f"loss={choice}"])["loss"]


def test_nodes_inside_it_can_be_replaced(mixture: list[str]) -> None:
    """No key of the replaced node is left."""
    options = [f"{A}=weighted_sum", f"{A}.terms.main.loss={{_target_: losses.info_nce.InfoNCE}}"]
    assert load([*EMBEDDER, *options, *mixture]).data.sources["a"].loss.terms["main"].loss == InfoNCE()


def test_a_file_of_a_mixture_names_them_in_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "my_mixture.yaml"
    head = "defaults:\n  - mixture\n  - file@sources.a\n"
    tail = "  - _self_\nsources:\n  a: {path: x}\n"
    file.write_text(f"{head}  - /loss@sources.a.loss: cosent\n{tail}")
    for options, loss in (([], CoSENT()), ([f"{A}.temperature=1"], CoSENT(1.0)), ([f"{A}=bce"], BinaryCrossEntropy())):
        settings = load([*EMBEDDER, "data=my_mixture", *options], config_dir=tmp_path)
        assert settings.data.sources["a"].loss == loss
    file.write_text(f"{head}{tail.replace('path: x', 'path: x, loss: cosent')}")
    with pytest.raises(ValueError, match=r"sources.a.loss=cosent is a name .* `- /loss@sources.a.loss: cosent` in its"):
        load([*EMBEDDER, "data=my_mixture"], config_dir=tmp_path)


def test_the_settings_hold_them_for_resuming(mixture: list[str]) -> None:
    settings = load([*EMBEDDER, f"{A}=cosent", *mixture])
    tree = as_tree(settings)
    assert tree["data"]["sources"]["a"]["loss"] == {"_target_": "losses.cosent.CoSENT", "temperature": 0.05}
    assert instantiate(tree) == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*EMBEDDER, f"{A}=cosnt"], f"{A}=cosnt is not a choice: did you mean cosent? valid: adr_mse"),
        ([*EMBEDDER, f"{A}=3"], f"{A}=3 is no loss: write the name of one of conf/loss, {A}=NAME"),
        ([*EMBEDDER, f"{A}.temperature=1"], f"{A} has options (temperature) and no _target_: choose the loss too"),
        ([*EMBEDDER, f"{A}=cosent", f"{A}.temprature=1"], f"{A}.temprature is not an option: did you mean temperature"),
        (
            [*EMBEDDER, f"{A}=plackett_luce_grpo"],
            f"{A}: trainer=ranking needs a loss such as {A}=softmax_cross_entropy",
        ),
        (
            [*RERANKER, "trainer=grpo", "loss=plackett_luce_grpo", f"{B}=bce"],
            f"{B}: trainer=grpo needs a policy loss such as {B}=plackett_luce_grpo, got BinaryCrossEntropy",
        ),
        ([*RERANKER, f"{A}=info_nce"], f"{A}: loss InfoNCE needs an embedding of each text, and the model gives score"),
        (
            [*EMBEDDER, f"{A}=cosent", f"{A}.temperature=null"],
            f"{A}: loss CoSENT: its temperature is null and the model has none: set model.temperature or {A}.temp",
        ),
        (
            [*EMBEDDER, f"{A}=cosent", "model.temperature=0.1"],
            "model.temperature=0.1 is not read by loss InfoNCE, CoSENT: leave it out",
        ),
        (
            [*EMBEDDER, f"{A}=cosent", "model@teacher=cross_encoder"],
            "losses InfoNCE, CoSENT do not use a teacher: leave model@teacher out",
        ),
        ([*EMBEDDER, f"{A}=gist"], "loss InfoNCE needs a guide: add model@guide=bi_encoder"),
        (
            [*EMBEDDER, "loss=null", f"{A}=cosent"],
            f"loss=null, and no loss for the data of b: set loss=NAME or {B}=NAME",
        ),
        ([*EMBEDDER, "loss=null"], "loss is null: choose one of conf/loss, loss=NAME"),
        (
            [*EMBEDDER, f"{A}=cosent", f"{B}=dcl"],
            f"used by no data set: each has its own ({A}, {B}): set loss=null, or",
        ),
        (
            [*EMBEDDER, f"{A}=weighted_sum", f"{A}.terms.b={{loss: {{_target_: losses.cosent.CoSENT}}}}"],
            f"{A}.terms.b and data.sources.b would both be logged as loss/b: give one of them another name",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(options: list[str], message: str, mixture: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_parts(load([*mixture, *options]))
    assert "\n" not in str(caught.value)


def test_data_that_are_no_mixture_have_none() -> None:
    options = ["+exp=embedder_infonce", "data=file", "data.path=x"]
    with pytest.raises(ValueError, match=r"^data.loss is for the data sets of a mixture .*: set loss=NAME instead"):
        check_parts(load([*options, "data.loss={_target_: losses.cosent.CoSENT}"]))


def test_each_data_set_is_compared_with_its_own_loss(mixture: list[str], tiny_bert_dir: Path) -> None:
    model = [*mixture, f"model.name_or_path={tiny_bert_dir}"]
    with pytest.raises(ValueError, match=r"^loss SoftmaxCrossEntropy does not fit data a \+ b, .* lack several"):
        prepare(load([*RERANKER, *model]))
    with pytest.raises(ValueError, match=rf"^{A}: loss BinaryCrossEntropy does not fit data a, .* lack labels"):
        prepare(load([*RERANKER, *model, f"{A}=bce"]))
    with pytest.raises(
        ValueError, match=r"^data.sources.a.loss: loss MarginMSE does not fit data a, .* teacher_scores"
    ):
        prepare(load([*EMBEDDER, *model, f"{A}=margin_mse"]))
    assert prepare(load([*EMBEDDER, *model, f"{B}=margin_mse"])).training
    negatives = "data/candidates@data.sources.a.candidates=bm25"
    assert prepare(load([*RERANKER, *model, f"{A}=bce", negatives])).training  # what the line names


def test_a_stage_with_data_of_its_own_has_them_too(mixture: list[str], tiny_run: list[str]) -> None:
    data = [option.replace("data", "stage.contrastive.data", 1) for option in mixture[3:]]
    named = [f"+data@stage.contrastive.data.sources.{name}=file" for name in "ab"]
    options = ["+exp=reranker_three_stage", *tiny_run, "data@stage.contrastive.data=mixture", *named, *data]
    key = "stage.contrastive.data.sources.a.loss"
    settings = load([*options, f"{key}=bce"])
    assert settings.stage["contrastive"].data.sources["a"].loss == BinaryCrossEntropy()
    with pytest.raises(ValueError, match=rf"^{key}: trainer=ranking needs a loss such as {key}=softmax_cross_entropy"):
        prepare(load([*options, f"{key}=plackett_luce_grpo"]))


def test_a_run_and_its_plan(mixture: list[str], tiny_run: list[str], tmp_path: Path) -> None:
    """The model card names each loss with its data sets, and metrics.jsonl the loss of each data set."""
    kept = [option for option in tiny_run if not option.startswith("data")]
    options = [*EMBEDDER, *mixture, *kept, f"{B}=margin_mse", "trainer.max_steps=4", "run_name=run", "seed=2"]
    options += ["trainer.eval_every=4", "eval.depth=100"]
    train(load(options))
    folder = tmp_path / "outputs" / "run"
    lines: list[dict[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {name for line in lines for name in line if name.startswith("loss/")} == {"loss/a", "loss/b"}
    card = (folder / "model" / "README.md").read_text()
    assert re.search(r"^- loss: InfoNCE\(.*\) on a, MarginMSE\(.*\) on b$", card, re.MULTILINE)
    (plan,) = make_plans(load(options), Machine("cpu", 2**34, None), ranks=[1], reads_data=True).values()
    assert len(plan.workload.batches) == 8
    start = next(option for option in kept if option.startswith("model.name_or_path"))
    compared = [*RERANKER, *mixture, f"{B}=dpo", "trainer.reference=frozen", start]
    workload = build_workload(load(compared), None, autocast=None)
    assert workload.frozen_bytes > 0, "the copy that one of the losses compares with"
    workload = build_workload(load(compared), load(compared).data.build(), autocast=None)
    assert {bool(rows) for rows in workload.frozen["reference"].batches} == {True, False}, "it runs in its steps alone"
