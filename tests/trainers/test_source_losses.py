"""A mixture whose data sets have losses of their own: each step has the value and the gradient of its data set's loss,
on any number of ranks, engine and chunks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_cases import accumulated_gradients
from running import make_trainer, metrics_of, run_to_the_end, run_until
from torch import Tensor

from data.batch import ListBatch
from data.collate import pad
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks
from inference.runner import similarity_of
from losses.bce import BinaryCrossEntropy
from losses.contracts import compute_loss
from losses.cosent import CoSENT
from losses.info_nce import InfoNCE
from losses.softmax_cross_entropy import SoftmaxCrossEntropy
from trainers.loss_inputs import make_loss_inputs
from trainers.state import TrainState

TOLERANCE = 1e-5
STEPS = 3
WORDS = ("red", "green", "blue", "apple", "pear", "train", "rank", "list", "query", "document")


@dataclass(frozen=True)
class Case:
    """`settings` choose the model and the shared loss, `own` the losses of data sets. `expected`: the loss by data set,
    where it is computed without a trainer."""

    settings: list[str]
    own: list[str]
    expected: dict[str, Any] | None = None

    @property
    def options(self) -> list[str]:
        return [*self.settings, *self.own]


def own(source: str, *options: str) -> list[str]:
    """The loss of a data set, and its options."""
    name = f"data.sources.{source}.loss"
    return [f"{name}={options[0]}", *(f"{name}.{option}" for option in options[1:])]


EMBEDDER = ("model=bi_encoder", "trainer=contrastive", "eval=retrieval")
RERANKER = ("model=cross_encoder", "trainer=ranking")
CASES = {
    "contrastive, pairwise over the batch": Case(
        [*EMBEDDER, "model.temperature=0.2", "model.learn_temperature=true", "loss=info_nce", "loss.temperature=null"],
        own("graded", "cosent", "temperature=0.1"),
        {"triplets": InfoNCE(temperature=None), "graded": CoSENT(temperature=0.1)},
    ),
    "pointwise, listwise, no shared loss": Case(
        [*RERANKER, "loss=null"],
        own("triplets", "bce") + own("graded", "softmax_cross_entropy"),
        {"triplets": BinaryCrossEntropy(), "graded": SoftmaxCrossEntropy()},
    ),
    "preference beside listwise": Case(
        [*RERANKER, "loss=softmax_cross_entropy", "trainer.reference=precomputed"], own("triplets", "dpo")
    ),
    "two policies": Case(
        ["model=cross_encoder", "trainer=grpo", "trainer.num_iterations=2", "loss=plackett_luce_grpo"],
        own("triplets", "token_policy", "num_generations=8"),
    ),
}


def text(number: int, about: str) -> str:
    return f"{WORDS[number % 10]} {WORDS[(number * 3 + 1) % 10]} {about}{number}" + " list" * (number % 4)


@pytest.fixture
def mixture(tmp_path: Path, tiny_run: list[str]) -> list[str]:
    """Triplets, and lists of up to three grades with a weight each; no dropout."""
    rows = [{"anchor": text(i, "q"), "positive": text(i, "p"), "negative": text(i + 7, "n")} for i in range(24)]
    graded = [
        {
            "query": text(i, "a"),
            "documents": [text(i + j, f"b{j}") for j in range(2 + i % 3)],
            "labels": [2, 0, 1, 0][: 2 + i % 3],
        }
        for i in range(20)
    ]
    files = {"triplets": rows, "graded": graded}
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    kept = [option for option in tiny_run if not option.startswith("data")]
    return [
        "data=mixture",
        *(f"+data@data.sources.{name}=file" for name in files),
        *(f"data.sources.{name}.path={tmp_path / f'{name}.jsonl'}" for name in files),
        *(f"data.sources.{name}.cache_dir={tmp_path}" for name in files),
        "data.weights={triplets: 1, graded: 1}",
        *kept,
        "eval.depth=100",
        "trainer.batch_size=6",
        "model.dropout=0",
        f"trainer.max_steps={STEPS}",
        "seed=2",  # by which both data sets are drawn in the first two batches
        "run_name=run",
    ]


Step = tuple[str, float, dict[str, Tensor], float | None]  # data set, loss, gradient, the loss without a trainer


def steps_of(runs: list[Any]) -> list[list[Step]]:
    return [_steps_of(*run) for run in runs]


def _steps_of(overrides: list[str], expected: dict[str, Any] | None) -> list[Step]:
    """The steps of a run, not evaluated; the gradients on rank 0 alone."""
    trainer = make_trainer(overrides)
    trainer.evaluator, gradients, found = None, [], []
    trainer.start()
    update = trainer.engine.step
    trainer.engine.step = lambda finite: gradients.append(accumulated_gradients(trainer.engine)) or update(finite)
    for step in range(1, STEPS + 1):
        trainer.state.step = step
        batch = trainer.next_batch()
        value = None if expected is None else by_hand(trainer, batch, expected[batch.source])
        loss = trainer.train_step(batch)["loss"]
        found.append((batch.source, loss, gradients[-1] if rank() == 0 else {}, value))
    if hasattr(trainer.engine, "engine"):
        trainer.engine.engine.destroy()
    return found


def by_hand(trainer: Any, batch: ListBatch, loss: Any) -> float:
    """The loss of the whole batch in one forward of a copy of the model."""
    model = copy.deepcopy(trainer.engine.model)
    rows = batch.sequences
    representations = model(**pad(rows, range(len(rows)), model.tokenizer.padding))
    inputs = make_loss_inputs(representations, batch, similarity=similarity_of(model), step=trainer.state.step)
    return compute_loss(loss, inputs)[0].item()


Run = tuple[list[str], dict[str, Any] | None]
Runs = Callable[..., list[Run]]


@pytest.fixture
def runs(mixture: list[str], tiny_bert_dir: Path, tiny_reranker_dir: Path) -> Runs:
    """A function of the engine and the token budget: the runs of all cases."""

    def run(number: int, case: Case, engine: str, budget: int, by_hand: bool) -> Run:
        folder = tiny_bert_dir if "model=bi_encoder" in case.settings else tiny_reranker_dir
        options = [f"engine={engine}", "engine.precision=fp32", f"trainer.token_budget={budget}"]
        options += [f"run_name={engine}-{budget}-{number}", f"model.name_or_path={folder}"]
        return [*case.options, *mixture, *options], case.expected if by_hand else None

    return lambda engine, budget, by_hand=False: [
        run(number, case, engine, budget, by_hand) for number, case in enumerate(CASES.values())
    ]


def test_gradients_and_values_are_those_of_one_process(runs: Runs) -> None:
    size = len(CASES)
    alone = run_ranks(steps_of, 1, [*runs("torch", 100_000, by_hand=True), *runs("torch", 120)], timeout_s=280)[0]
    two = run_ranks(steps_of, 2, [*runs("torch", 90), *runs("zero2", 90)], timeout_s=280)[0]
    whole, alike = alone[:size], {"chunks": alone[size:], "torch, 2 ranks": two[:size], "zero2, 2 ranks": two[size:]}
    for number, (name, case) in enumerate(CASES.items()):
        assert {source for source, *_ in whole[number]} == {"triplets", "graded"}, name
        if case.expected is not None:
            for source, loss, _, value in whole[number]:
                assert loss == pytest.approx(value, rel=TOLERANCE), (name, source)
        for where, steps in alike.items():
            for (source, loss, gradient, _), (other, found, its, _) in zip(whole[number], steps[number], strict=True):
                assert other == source, (name, where)
                assert found == pytest.approx(loss, rel=TOLERANCE, abs=TOLERANCE), (name, where, source)
                assert relative_error(its, gradient) < TOLERANCE, (name, where, source)


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    difference = torch.cat([(found[name] - value).flatten() for name, value in expected.items()])
    return (difference.norm() / torch.cat([value.flatten() for value in expected.values()]).norm()).item()


def test_the_losses_of_the_data_sets_are_logged_as_means_since_the_last_line(mixture: list[str]) -> None:
    options = [*CASES["contrastive, pairwise over the batch"].options, *mixture, "trainer.max_steps=6"]
    lines = [line for line in run_to_the_end([*options, "trainer.log_every=1"])[0] if line["split"] == "train"]
    assert {line["source"] for line in lines} == {"triplets", "graded"}
    for line in lines:
        assert {key: line[key] for key in line if key.startswith("loss/")} == {f"loss/{line['source']}": line["loss"]}
    seldom = [*options, "trainer.log_every=3", "run_name=seldom"]
    found = [line for line in run_to_the_end(seldom)[0] if line["split"] == "train"]
    assert [line["step"] for line in found] == [3, 6]
    for line in found:
        own: dict[str, list[float]] = {}
        for one in lines[line["step"] - 3 : line["step"]]:
            own.setdefault(f"loss/{one['source']}", []).append(one["loss"])
        means = {name: sum(values) / len(values) for name, values in own.items()}
        assert {key: line[key] for key in line if key.startswith("loss/")} == pytest.approx(means, rel=1e-6)


def test_a_resumed_run_continues_the_means(mixture: list[str]) -> None:
    options = [*CASES["pointwise, listwise, no shared loss"].options, *mixture, "trainer.max_steps=6"]
    options += ["trainer.log_every=3", "trainer.save_every=2"]
    whole, _ = run_to_the_end([*options, "run_name=whole"])
    run_until([(options, 3)])  # its checkpoint is of step 2, so step 3 is logged again
    trainer = make_trainer(options)
    trainer.resume()
    assert trainer.state.step == 2
    assert sum(count for _, count in trainer.state.source_losses.values()) == 2
    trainer.run.checkpoint = None
    trainer.fit()
    again = [line for line in metrics_of(trainer) if line["split"] == "train"]
    expected = [line for line in whole if line["split"] == "train"]
    assert [line["step"] for line in again] == [3, 6]
    for one, two in zip(expected, again, strict=True):
        assert one.keys() == two.keys()
        assert {key: two[key] for key in two if key.startswith("loss")} == pytest.approx(
            {key: one[key] for key in one if key.startswith("loss")}, rel=1e-5
        )


def test_data_that_are_no_mixture_have_one_loss(tiny_run: list[str]) -> None:
    metrics, _ = run_to_the_end(["+exp=reranker_listwise", *tiny_run, "trainer.max_steps=1"])
    (line,) = [line for line in metrics if line["split"] == "train"]
    assert not [key for key in line if key.startswith("loss/")]


def test_means_are_taken_once() -> None:
    state = TrainState()
    for source, loss in (("a", 1.0), ("b", 4.0), ("a", 2.0)):
        state.add_loss(source, loss)
    again = TrainState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again.take_mean_losses() == {"loss/a": 1.5, "loss/b": 4.0}
    assert again.take_mean_losses() == {}
