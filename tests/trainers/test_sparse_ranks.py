"""A sparse encoder's gradients are those of one process on any ranks, engine and chunks, with its penalties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import gradient_cases as cases
import numpy as np
import pytest
import torch
from gradient_cases import Case, Result
from test_gradients import TOLERANCE, relative_error
from torch import Tensor

from data.batch import ListBatch
from engines.distributed.testing import run_ranks
from losses.contracts import LossInputs, Statistics, WrapperLoss
from losses.info_nce import InfoNCE
from losses.kl_distillation import KLDistillation
from losses.lambda_loss import LambdaLoss
from losses.math.schedules import Schedule
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.sparsity import FORMS, Sparsity
from losses.weighted_sum import Term, WeightedSum
from models.sparse.sparse_encoder import SparseEncoder, SparseEncoderConfig
from models.tokenization import IS_QUERY


@dataclass(frozen=True)
class Sampled(WrapperLoss):
    """A policy by the contract of other losses, as `GRPOTrainer` calls it: the actions are those of an older policy,
    whose scores were 0.9 times the present ones, and list i has the seed i + 1."""

    sharded: ClassVar[bool] = True
    policy: Any

    @property
    def losses(self) -> tuple[Any, ...]:
        return ()

    def __call__(self, loss_inputs: LossInputs) -> tuple[Tensor, Statistics]:
        scores, mask, share = loss_inputs.list_scores(), loss_inputs.mask, loss_inputs.share
        old = 0.9 * scores.detach()
        actions = self.policy.sample(old, mask=mask, seeds=(share.own(cases.NUM_LISTS) + 1).tolist())
        given = {"actions": actions, "old_scores": old, "share": share}
        return self.policy(scores, loss_inputs.labels, mask, **given)


def with_penalties(loss) -> WeightedSum:
    grown = Schedule("quadratic", initial=0.5, final=1.0, end=0.5)
    terms = {"main": Term(loss), "query": Term(Sparsity("l1", ("query",)), 0.1)}
    return WeightedSum({**terms, "document": Term(Sparsity(roles=("document",)), 0.1, grown)})


def penalties_alone(form: str) -> WeightedSum:
    """Penalties, which are of means over all texts of the step, and little of a loss that trains the temperature."""
    return WeightedSum({form: Term(Sparsity(form)), "main": Term(InfoNCE(temperature=None), 1e-3)})


LOSSES = {
    "info_nce": with_penalties(InfoNCE(temperature=None)),
    "distillation": with_penalties(KLDistillation()),
    "listwise": with_penalties(LambdaLoss()),
    "grpo": with_penalties(Sampled(PlackettLuceGRPO(num_generations=8, temperature=0.7))),
    **{form: penalties_alone(form) for form in FORMS},
}
CHOSEN = [
    Case(1, "torch", 4, "chunked", 0.1, "2", "info_nce"),
    Case(2, "torch", 4, "chunked", 0.1, "ragged", "info_nce"),
    Case(2, "torch", 1, "whole", 0.0, "2", "listwise"),
    Case(2, "zero2", 4, "whole", 0.0, "2", "distillation"),
    Case(2, "zero3", 4, "chunked", 0.1, "ragged", "info_nce"),
    Case(2, "zero3", 1, "whole", 0.0, "2", "distillation"),
    Case(2, "torch", 4, "whole", 0.0, "ragged", "grpo"),
    Case(2, "torch", 4, "chunked", 0.0, "ragged", "flops"),
    Case(2, "zero3", 1, "chunked", 0.1, "ragged", "flops"),
]
PRODUCT = [
    Case(ranks, engine, chunks, "chunked" if dropout else "whole", dropout, "ragged", loss)
    for ranks, engine, chunks, dropout, loss in product(
        (1, 2, 4), ("torch", "zero2", "zero3"), (1, 4), (0.0, 0.1), LOSSES
    )
]


def mark_queries(batch: ListBatch) -> ListBatch:
    """Mark the first text of each list as its query, as the tokenizer does."""
    for example in batch.examples:
        lengths = example.sequences.lengths
        is_query = np.repeat(np.arange(len(lengths)) == 0, lengths).astype(np.int32)
        example.sequences.features[IS_QUERY] = is_query  # type: ignore[index]
    return ListBatch(batch.number, batch.examples)


make_batch = cases.make_batch


@cache
def marked_batch(negatives: str, several: bool) -> ListBatch:
    return mark_queries(make_batch.__wrapped__(negatives, several))


@cache
def make_model(folder: Path, dropout: float) -> SparseEncoder:
    """The model of `folder`; that without the head of a language model has inference-free queries."""
    free = "ones" if folder.name.startswith("headless") else None
    return SparseEncoderConfig(
        str(folder), dropout=dropout, temperature=2.0, learn_temperature=True, max_length=32, query_weights=free
    ).build(seed=0)


def use_sparse_encoders() -> None:
    cases.make_model, cases.make_batch, cases.LOSSES = make_model, marked_batch, LOSSES


def measure_sparse(folder: Path, chosen: list[Case]) -> list[Result]:
    use_sparse_encoders()
    return cases.measure_all(folder, chosen)


@pytest.fixture(autouse=True)
def _sparse_encoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("make_model", "make_batch", "LOSSES"):
        monkeypatch.setattr(cases, name, getattr(cases, name))
    use_sparse_encoders()
    cases._reference.cache_clear()
    yield
    cases._reference.cache_clear()


@pytest.fixture(scope="module")
def headless_dir(tmp_path_factory: pytest.TempPathFactory, tiny_models, tiny_bert_dir: Path) -> Path:
    from transformers import AutoTokenizer

    size = len(AutoTokenizer.from_pretrained(tiny_bert_dir))
    return tiny_models.write_tiny_bert(tmp_path_factory.mktemp("headless"), vocab_size=size)


@pytest.fixture(scope="module")
def masked_dir(tmp_path_factory: pytest.TempPathFactory, tiny_models) -> Path:
    from transformers import AutoModelForMaskedLM

    folder = tiny_models.write_tiny(tmp_path_factory.mktemp("masked"), "bert")
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def measured():
    """The result of a case; those of as many ranks and one folder run together."""

    @cache
    def of(ranks: int, folder: Path) -> dict[Case, Result]:
        chosen = [case for case in CHOSEN if case.ranks == ranks]
        return dict(zip(chosen, run_ranks(measure_sparse, ranks, folder, chosen, timeout_s=280)[0], strict=True))

    return of


@pytest.mark.parametrize("start", ["masked", "free queries"])
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_gradients_and_weights_are_those_of_one_process(case, start, measured, headless_dir, masked_dir):
    folder = masked_dir if start == "masked" else headless_dir
    assert_equal_to_one_process(folder, case, measured(case.ranks, folder)[case])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("start", ["masked", "free queries"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_product_of_ranks_engines_chunks_dropout_and_losses(ranks, start, headless_dir, masked_dir):
    folder = masked_dir if start == "masked" else headless_dir
    chosen = [case for case in PRODUCT if case.ranks == ranks]
    for case, result in zip(chosen, run_ranks(measure_sparse, ranks, folder, chosen, timeout_s=7000)[0], strict=True):
        assert_equal_to_one_process(folder, case, result)


def assert_equal_to_one_process(folder: Path, case: Case, result: Result) -> None:
    for unchunked in (False, True) if case.dropout == 0 else (False,):
        loss, gradients, weights = cases.reference(folder, case, unchunked=unchunked)
        assert result[0] == pytest.approx(loss, rel=TOLERANCE), case
        gradients = {name: value for name, value in gradients.items() if value is not None}
        assert relative_error(result[1], gradients) < TOLERANCE, case
        assert relative_error(result[2], weights) < TOLERANCE, case
        if "token_weights.weight" in gradients:
            assert gradients["token_weights.weight"].count_nonzero() > 0
    assert torch.cat([value.flatten() for value in result[1].values()]).norm() > 1e-2, case
