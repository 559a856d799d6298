"""One rank has more lists, or longer texts, or nothing at all: no hang, and the gradient of one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gradient_cases import ENGINES, LOSSES, accumulated_gradients, make_model, run_chunks
from torch import Tensor

from data.batch import ListExample, TokenSequences
from data.collate import Collator
from engines.distributed.process_group import rank, world_size
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from losses.contracts import compute_loss
from trainers.batches import gather_batch

# Tokens of a text, for each list; list i is made by rank i mod 2.
SHARES = {
    "longer texts on rank 1": (4, 30, 4, 30, 4, 30),
    "fewer lists on rank 1": (8, 8, 8),
    "rank 1 has none": (8,),
    "few long texts, many short ones": (3, 31, 3, 3, 3, 3, 3),
}


def example(number: int, tokens: int) -> ListExample:
    draw = np.random.default_rng(number)
    size = 2 + number % 3
    lengths = np.full(size + 1, tokens, dtype=np.int32)
    return ListExample(
        query_id=f"q{number}",
        document_ids=[f"d{number}.{i}" for i in range(size)],
        labels=np.array([1] + [0] * (size - 1), dtype=np.float32),
        teacher_scores=np.zeros(size, dtype=np.float32),
        sequences=TokenSequences(
            {"input_ids": draw.integers(5, 120, size=int(lengths.sum())).astype(np.int32)}, lengths
        ),
        query_hash=number,
        document_hashes=np.array([100 * number + i for i in range(size)]),
    )


def gradients(folder: Path, engine_name: str) -> dict[str, tuple[float, dict[str, Tensor]]]:
    """Loss and gradient of every case, as this number of ranks computes them."""
    model = make_model.__wrapped__(folder, 0.1)
    schedule = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)  # noqa: E731
    options = OptimizerOptions(name="sgd", learning_rate=0.1, weight_decay=0.0)
    engine = ENGINES[engine_name].build(model, options, schedule, max_grad_norm=float("inf"))
    found = {}
    for name, tokens in SHARES.items():
        share = [example(number, tokens[number]) for number in range(rank(), len(tokens), world_size())]
        batch = gather_batch(0, share)

        objective = partial(compute_loss, LOSSES["info_nce"])
        loss = run_chunks(engine, Collator(model.tokenizer.padding, 64), 1, batch, objective)
        found[name] = (loss, accumulated_gradients(engine))
        engine.step()
    return found


@pytest.fixture(scope="module")
def one_process(tiny_bert_dir: Path) -> dict[str, tuple[float, dict[str, Tensor]]]:
    return gradients(tiny_bert_dir, "torch")


@pytest.mark.parametrize("engine", ["torch", "zero3"])
def test_uneven_shares_give_the_gradient_of_one_process(engine: str, tiny_bert_dir: Path, one_process: dict) -> None:
    found = run_ranks(gradients, 2, tiny_bert_dir, engine, timeout_s=280)[0]
    for name, (loss, expected) in one_process.items():
        assert found[name][0] == pytest.approx(loss, rel=1e-5), name
        difference = torch.cat([(found[name][1][key] - value).flatten() for key, value in expected.items()])
        norm = torch.cat([value.flatten() for value in expected.values()]).norm()
        assert difference.norm() / norm < 1e-5, name
