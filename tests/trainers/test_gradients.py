"""Gradients and weights after a step are one process's, in scale and direction, on any number of ranks and any engine.

Accumulation is the number of chunks that a rank runs per update. Negatives come from the whole global step however it
is cut (elsewhere a micro-batch sees its own only), so 4 chunks must give the gradient of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from gradient_cases import (
    LEARNING_RATE,
    VALUES,
    Case,
    Result,
    all_cases,
    batch_of,
    covering_cases,
    measure_all,
    num_chunks,
    reference,
)
from torch import Tensor

from engines.distributed.testing import run_ranks

TOLERANCE = 1e-5
ROUNDING = 1e-7  # of a float32 sum of terms of about 1, which cancel in some cases: the gradient of a temperature
Measured = Callable[[Case], Result]


@pytest.fixture(scope="module")
def measured(tiny_bert_dir: Path) -> Measured:
    """The result of a covering case; those of as many ranks run together."""

    @cache
    def of(ranks: int) -> dict[Case, Result]:
        cases = [case for case in covering_cases() if case.ranks == ranks]
        return dict(zip(cases, run_ranks(measure_all, ranks, tiny_bert_dir, cases, timeout_s=280)[0], strict=True))

    return lambda case: of(case.ranks)[case]


@pytest.mark.parametrize("case", covering_cases(), ids=str)
def test_gradients_and_weights_are_those_of_one_process(case: Case, measured: Measured, tiny_bert_dir: Path) -> None:
    assert_equal_to_one_process(tiny_bert_dir, case, measured(case))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("engine", VALUES["engine"])
@pytest.mark.parametrize("ranks", VALUES["ranks"])
def test_all_cases(ranks: int, engine: str, tiny_bert_dir: Path) -> None:
    cases = [case for case in all_cases() if (case.ranks, case.engine) == (ranks, engine)]
    for case, result in zip(cases, run_ranks(measure_all, ranks, tiny_bert_dir, cases, timeout_s=7000)[0], strict=True):
        assert_equal_to_one_process(tiny_bert_dir, case, result)


def assert_equal_to_one_process(folder: Path, case: Case, result: Result) -> None:
    for unchunked in (False, True) if case.dropout == 0 else (False,):
        loss, gradients, weights = reference(folder, case, unchunked=unchunked)
        assert result[0] == pytest.approx(loss, rel=TOLERANCE), case
        assert relative_error(result[1], gradients) < TOLERANCE, case
        assert relative_error(result[2], weights) < TOLERANCE, case
        learned = "scale.log_scale"
        assert result[1][learned].item() == pytest.approx(gradients[learned].item(), rel=TOLERANCE, abs=ROUNDING), case


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """|found - expected| / |expected| of all values as one vector."""
    assert found.keys() == expected.keys()
    assert all(found[name].shape == value.shape for name, value in expected.items())
    difference = torch.cat([(found[name] - value).flatten() for name, value in expected.items()])
    return (difference.norm() / torch.cat([value.flatten() for value in expected.values()]).norm()).item()


def test_the_cases_are_what_they_say() -> None:
    assert len(all_cases()) == 1728
    assert {case.ranks for case in covering_cases()} == set(VALUES["ranks"])
    assert any(num_chunks(case) < case.ranks for case in covering_cases()), "a rank without a chunk"
    for case in all_cases():
        assert -(-num_chunks(case) // case.ranks) == case.accumulation, case
        assert num_chunks(case) % case.ranks > 0 or case.negatives != "ragged" or case.ranks == 1, case
        assert num_chunks(case) <= len(batch_of(case).sequences), case


def test_the_references_differ_where_they_must(tiny_bert_dir: Path) -> None:
    """By more than the tolerance: a wrong factor, another loss or dropout mask would be seen, in the weights too."""
    case = Case(2, "torch", 4, "chunked", 0.1, "2", "info_nce")
    _, gradients, weights = reference(tiny_bert_dir, case, unchunked=False)
    start = {name: value + LEARNING_RATE * gradients.get(name, torch.zeros(())) for name, value in weights.items()}
    assert relative_error(start, weights) > 100 * TOLERANCE
    assert gradients["scale.log_scale"].abs() > 1e-3
    for loss, unchunked in (("info_nce", True), ("symmetric", False), ("matryoshka", False), ("distillation", False)):
        other = reference(tiny_bert_dir, replace(case, loss=loss), unchunked=unchunked)
        assert relative_error(other[1], gradients) > 100 * TOLERANCE, loss
