"""Gradients of late interaction are one process's, by any objective, on any ranks, engine and chunks, with dropout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradient_cases as cases
import numpy as np
import pytest
import torch
from gradient_cases import SEED, Case, Result
from test_gradients import TOLERANCE, relative_error

from data.batch import ListBatch
from engines.distributed.testing import run_ranks
from losses.info_nce import InfoNCE
from losses.inputs import LossInputs, Statistics
from losses.kl_distillation import KLDistillation
from losses.lambda_loss import LambdaLoss
from losses.math import tiles
from losses.matryoshka import Matryoshka
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.xtr import XTR
from models.late_interaction.encoder import LateInteraction
from models.late_interaction.options import LateInteractionConfig
from models.late_interaction.tokens import HIDDEN, SCORED
from trainers.grpo import GRPOTrainer


class FirstUpdate:
    """GRPO's first update on a batch: rankings are sampled from the scores that get the gradient."""

    contract = "wrapper"
    sharded = True
    policy = PlackettLuceGRPO(num_generations=8)

    def __call__(self, lists: LossInputs) -> tuple[torch.Tensor, Statistics]:
        trainer: Any = SimpleNamespace(old_batch=None, old=None, seed=SEED, replaced_statistics=dict)
        trainer.loss_of = lambda _: self.policy
        batch: Any = SimpleNamespace(number=0, examples=range(cases.NUM_LISTS))
        return GRPOTrainer.objective(trainer, lists, batch)


INFO_NCE = InfoNCE(temperature=None)
LOSSES: dict[str, Any] = {
    "info_nce": INFO_NCE,
    "distillation": KLDistillation(),
    "listwise": LambdaLoss(),
    "grpo": FirstUpdate(),
    "xtr": XTR(INFO_NCE, top_k=40),
    "matryoshka": Matryoshka(INFO_NCE, dims=(16, 5)),
}
ENGINES = ("torch", "zero2", "zero3")
EVERY = [
    Case(*values)
    for values in product((1, 2, 4), ENGINES, (1, 4), ("whole", "chunked"), (0.0, 0.1), ("2", "ragged"), LOSSES)
]
CHOSEN = cases.covering(EVERY)
CHUNKS = (1, "whole"), (4, "chunked")
PRODUCT = [case for case in EVERY if (case.accumulation, case.kept) in CHUNKS and case.negatives == "ragged"]
make_batch = cases.make_batch


@cache
def marked_batch(negatives: str, several: bool) -> ListBatch:
    """Queries whose last tokens are an expansion, and documents some of whose tokens are not compared: one has none
    that is."""
    batch, draw = make_batch.__wrapped__(negatives, several), np.random.default_rng(3)
    for number, example in enumerate(batch.examples):
        lengths, features = example.sequences.lengths, example.sequences.features
        owner = np.repeat(np.arange(len(lengths)), lengths)
        place = np.concatenate([np.arange(length) for length in lengths])
        skipped = (owner > 0) & ((draw.random(len(owner)) < 0.2) | ((number == 2) & (owner == len(lengths) - 1)))
        features |= {SCORED: (~skipped).astype(np.int32), HIDDEN: ((owner == 0) & (place > 4)).astype(np.int32)}
    return batch


@cache
def make_model(folder: Path, dropout: float) -> LateInteraction:
    options = {"dropout": dropout, "temperature": 2.0, "learn_temperature": True, "dimension": 16}
    return LateInteractionConfig(str(folder), **options).build(seed=0)


def use_late_interaction() -> None:
    """So small blocks that each has a few texts of every rank."""
    tiles.BYTES_PER_BLOCK = 2**10
    cases.make_model, cases.make_batch, cases.LOSSES = make_model, marked_batch, LOSSES


def measure_late(folder: Path, chosen: list[Case]) -> list[Result]:
    use_late_interaction()
    return cases.measure_all(folder, chosen)


@pytest.fixture(autouse=True)
def _late_interaction(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tiles, "BYTES_PER_BLOCK", tiles.BYTES_PER_BLOCK)
    for name in ("make_model", "make_batch", "LOSSES"):
        monkeypatch.setattr(cases, name, getattr(cases, name))
    use_late_interaction()
    cases._reference.cache_clear()
    yield
    cases._reference.cache_clear()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_gradients_and_weights_are_those_of_one_process(ranks: int, tiny_bert_dir: Path) -> None:
    """Among the cases every two values of two factors meet."""
    assert_equal_to_one_process([case for case in CHOSEN if case.ranks == ranks], tiny_bert_dir, 280)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_product(ranks: int, engine: str, tiny_bert_dir: Path) -> None:
    chosen = [case for case in PRODUCT if (case.ranks, case.engine) == (ranks, engine)]
    assert_equal_to_one_process(chosen, tiny_bert_dir, 1700)


def assert_equal_to_one_process(chosen: list[Case], folder: Path, timeout_s: float) -> None:
    results = run_ranks(measure_late, chosen[0].ranks, folder, chosen, timeout_s=timeout_s)[0]
    for case, result in zip(chosen, results, strict=True):
        for unchunked in (False, True) if case.dropout == 0 else (False,):
            loss, gradients, weights = cases.reference(folder, case, unchunked=unchunked)
            assert result[0] == pytest.approx(loss, rel=TOLERANCE, abs=1e-6), case
            assert relative_error(result[1], gradients) < TOLERANCE, case
            assert relative_error(result[2], weights) < TOLERANCE, case
            own = {"dense.0.linear.weight": gradients["dense.0.linear.weight"]}
            assert relative_error({name: result[1][name] for name in own}, own) < TOLERANCE, case
            # That of the temperature is a sum of scores of up to 12, with either sign: of GRPO's 1e-4 remain.
            found, wanted = (each["scale.log_scale"] for each in (result[1], gradients))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=str(case))


def test_the_cases_are_what_they_say(tiny_bert_dir: Path) -> None:
    assert len(EVERY) == 864
    assert len(PRODUCT) == 216, "ranks x engines x chunks x dropout x objectives"
    case = Case(1, "torch", 4, "whole", 0.1, "2", "info_nce")
    case = Case(1, "torch", 4, "whole", 0.1, "2", "info_nce")
    found = {loss: cases.reference(tiny_bert_dir, replace(case, loss=loss), unchunked=False) for loss in LOSSES}
    for loss, (_, gradients, _) in found.items():
        assert torch.cat([value.flatten() for value in gradients.values()]).norm() > 1e-2, loss
        if loss != "info_nce":
            assert relative_error(gradients, found["info_nce"][1]) > 100 * TOLERANCE, loss
    assert marked_batch("2", False).examples[2].sequences.features[SCORED][-1] == 0
