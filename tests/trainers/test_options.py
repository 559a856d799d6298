"""Trainer options: the schedule's values, and errors that name the key."""

from __future__ import annotations

import pytest
import torch

from trainers.grpo import GRPOTrainerConfig
from trainers.supervised import SupervisedTrainerConfig


def rates(**options: object) -> list[float]:
    config = SupervisedTrainerConfig(learning_rate=1.0, **options)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = config.make_schedule(config.max_steps).build(optimizer)
    found = []
    for _ in range(config.max_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_linear_schedule() -> None:
    assert rates(max_steps=6, warmup_ratio=1 / 3, schedule="linear") == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]
    )


def test_cosine_schedule() -> None:
    assert rates(max_steps=4, warmup_ratio=0, schedule="cosine") == pytest.approx([1, 0.8535534, 0.5, 0.1464466])


def test_constant_schedule() -> None:
    assert rates(max_steps=4, warmup_ratio=0.25, schedule="constant") == pytest.approx([0.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "trainer.max_steps must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "trainer.learning_rate must be at least 0 and finite, got -1.0"),
        ({"learning_rate": float("nan")}, "trainer.learning_rate must be at least 0 and finite, got nan"),
        ({"list_size": 0}, "trainer.list_size must be at least 1, got 0"),
        ({"reference": "live"}, "trainer.reference must be one of frozen, precomputed, got .live."),
        ({"max_grad_norm": 0.0}, r"trainer.max_grad_norm must be positive \(.inf: no clipping\), got 0.0"),
        ({"schedule": "step"}, "trainer.schedule must be one of linear, cosine, constant, got 'step'"),
        ({"optimizer": "lion"}, "trainer.optimizer must be one of adamw, adamw_8bit, sgd, got 'lion'"),
        ({"warmup_ratio": 2.0}, r"trainer.warmup_ratio must lie in \[0, 1\], got 2.0"),
        ({"betas": [0.9]}, r"trainer.betas must be two numbers in \[0, 1\), got \[0.9\]"),
    ],
)
def test_errors_name_the_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SupervisedTrainerConfig(**options)


def test_num_iterations() -> None:
    with pytest.raises(ValueError, match=r"trainer.num_iterations must be at least 1, got 0"):
        GRPOTrainerConfig(num_iterations=0)
