"""A sparse encoder's gradients are those of one process on any ranks, engine and chunks, with its penalties."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gradient_cases as cases
import numpy as np
import pytest
import torch
from gradient_cases import Case, Result
from test_gradients import TOLERANCE, relative_error

from data.batch import ListBatch
from engines.distributed.testing import run_ranks
from losses.info_nce import InfoNCE
from losses.kl_distillation import KLDistillation
from losses.lambda_loss import LambdaLoss
from losses.math.schedules import Schedule
from losses.sparsity import Sparsity
from losses.weighted_sum import Term, WeightedSum
from models.sparse.sparse_encoder import SparseEncoder, SparseEncoderConfig
from models.tokenization import IS_QUERY


def with_penalties(loss) -> WeightedSum:
    grown = Schedule("quadratic", initial=0.5, final=1.0, end=0.5)
    terms = {"main": Term(loss), "query": Term(Sparsity("l1", ("query",)), 0.1)}
    return WeightedSum({**terms, "document": Term(Sparsity(roles=("document",)), 0.1, grown)})


LOSSES = {
    "info_nce": with_penalties(InfoNCE(temperature=None)),
    "distillation": with_penalties(KLDistillation()),
    "listwise": with_penalties(LambdaLoss()),
}
CHOSEN = [
    Case(1, "torch", 4, "chunked", 0.1, "2", "info_nce"),
    Case(2, "torch", 4, "chunked", 0.1, "ragged", "info_nce"),
    Case(2, "torch", 1, "whole", 0.0, "2", "listwise"),
    Case(2, "zero2", 4, "whole", 0.0, "2", "distillation"),
    Case(2, "zero3", 4, "chunked", 0.1, "ragged", "info_nce"),
    Case(2, "zero3", 1, "whole", 0.0, "2", "distillation"),
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
    result = measured(case.ranks, folder)[case]
    for unchunked in (False, True) if case.dropout == 0 else (False,):
        loss, gradients, weights = cases.reference(folder, case, unchunked=unchunked)
        assert result[0] == pytest.approx(loss, rel=TOLERANCE)
        gradients = {name: value for name, value in gradients.items() if value is not None}
        assert relative_error(result[1], gradients) < TOLERANCE
        assert relative_error(result[2], weights) < TOLERANCE
        if start == "free queries":
            assert gradients["token_weights.weight"].count_nonzero() > 0
    assert torch.cat([value.flatten() for value in result[1].values()]).norm() > 1e-2
