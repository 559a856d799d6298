"""A whole step with packed rows: that of padded rows without dropout, and with dropout the same on 1 and 2 ranks."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from gradient_cases import ENGINES, LOSSES, accumulated_gradients, make_batch, make_model, run_chunks
from torch import Tensor

from data.collate import Collator, PackedCollator
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from inference.runner import row_collator
from losses.contracts import compute_loss

BUDGET = 64
Step = tuple[float, dict[str, Tensor], float]  # loss, gradients, norm of the weights after the update


def steps(folder: Path, dropout: float, engine_name: str, packs: bool) -> list[Step]:
    """Two steps of SGD; no chunk but one is kept."""
    model = copy.deepcopy(make_model.__wrapped__(folder, dropout))
    if not packs:
        model.pad_rows()
    assert model.packs_rows == packs
    schedule = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)  # noqa: E731
    options = OptimizerOptions(name="sgd", learning_rate=0.1, weight_decay=0.0)
    engine = ENGINES[engine_name].build(model, options, schedule, max_grad_norm=float("inf"))
    collator = row_collator(engine.model, model.tokenizer.padding, BUDGET)
    assert type(collator) is (PackedCollator if packs else Collator)
    batch = make_batch("ragged", False)
    found = []
    for _ in range(2):
        loss = run_chunks(engine, collator, 1, batch, partial(compute_loss, LOSSES["info_nce"]))
        gradients = accumulated_gradients(engine)
        engine.step()
        with engine.full_weights():
            weights = torch.cat([value.detach().flatten() for value in engine.model.parameters()])
        found.append((loss, gradients, weights.norm().item()))
    return found


def assert_same(found: list[Step], expected: list[Step]) -> None:
    for (loss, gradients, norm), (right, of_right, norm_of_right) in zip(found, expected, strict=True):
        assert loss == pytest.approx(right, rel=1e-5)
        assert norm == pytest.approx(norm_of_right, rel=1e-6)
        assert gradients.keys() == of_right.keys()
        difference = torch.cat([(gradients[name] - value).flatten() for name, value in of_right.items()]).norm()
        assert difference / torch.cat([value.flatten() for value in of_right.values()]).norm() < 1e-5


def test_a_packed_step_is_a_padded_one_without_dropout(tiny_bert_dir: Path) -> None:
    assert_same(*(steps(tiny_bert_dir, 0.0, "torch", packs) for packs in (True, False)))


@pytest.mark.parametrize("engine", ["torch", pytest.param("zero3", marks=pytest.mark.slow)])
def test_with_dropout_two_ranks_make_the_step_of_one(engine: str, tiny_bert_dir: Path) -> None:
    expected = steps(tiny_bert_dir, 0.1, "torch", True)
    assert_same(run_ranks(steps, 2, tiny_bert_dir, 0.1, engine, True, timeout_s=280)[0], expected)
    assert expected[0][0] != pytest.approx(steps(tiny_bert_dir, 0.0, "torch", True)[0][0], rel=1e-4)


def test_a_packed_step_has_fewer_chunks_and_no_padding(tiny_bert_dir: Path) -> None:
    model = make_model.__wrapped__(tiny_bert_dir, 0.0)
    lengths = make_batch("ragged", False).sequences.lengths.tolist()
    packed, padded = PackedCollator(model.tokenizer.padding, BUDGET), Collator(model.tokenizer.padding, BUDGET)
    assert sum(packed.cost(lengths, chunk) for chunk in packed.plan(lengths)) == sum(lengths)
    assert sum(padded.cost(lengths, chunk) for chunk in padded.plan(lengths)) > sum(lengths)
    assert len(packed.plan(lengths)) <= len(padded.plan(lengths))
