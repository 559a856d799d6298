"""plackett beside itself: the same texts with other settings, which the question gives for each side."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.side_by_side import RowFlops, fit, make_trainer
from benchmarks.speed.setting import Job
from benchmarks.speed.texts import batches_of, prepare, work_of
from benchmarks.speed.turns import TEXTS, Turns


def prepared(job: Job) -> tuple[Any, Any]:
    """The settings and the data of a side. The texts are those of the first side."""
    sides = job.setting.sides
    assert sides is not None
    experiment, *overrides = sides[next(iter(sides)) if job.side == TEXTS else job.side]
    return prepare(job, experiment, *overrides)


def make_texts(job: Job) -> dict[str, Any]:
    """The work of each step: the sides draw the same lists by themselves, since seed and data are the same."""
    settings, data = prepared(job)
    _, batches = batches_of(settings, data, job.setting.num_steps)
    flops = RowFlops.count(settings.model, backward=True)
    return {"steps": work_of(batches, flops)}


def run(job: Job, turns: Turns) -> None:
    """Train on one side. Its first gradient is left in the folder if the question compares it."""
    from engines.memory.allocator import keep_freed_memory

    keep_freed_memory()
    trainer = make_trainer(*prepared(job))
    if job.setting.compare_gradients:
        keep_first_gradient(trainer, job)

    make_plan = trainer.gradient_cache.plan

    def watched_plan(*arguments: Any, **options: Any) -> Any:
        plan = make_plan(*arguments, **options)
        turns.found = {"padded_tokens": plan.padded_tokens}  # that the step runs
        return plan

    trainer.gradient_cache.plan = watched_plan
    fit(trainer, lambda _: turns.step_done())


def keep_first_gradient(trainer: Any, job: Job) -> None:
    """Write the gradient of all weights at the first step, before the optimizer uses it."""
    step, file = trainer.engine.step, gradient_file(job.folder, job.side)
    file.unlink(missing_ok=True)

    def first_step(finite: Any = None) -> Any:
        if not file.is_file():
            gradients = [p.grad.flatten() for p in trainer.engine.model.parameters() if p.grad is not None]
            torch.save(torch.cat(gradients), file)
        return step(finite)

    trainer.engine.step = first_step


def gradient_file(folder: Any, side: str) -> Any:
    return folder / f"gradient-{side}.pt"


def gradient_difference(folder: Any, sides: list[str]) -> float:
    """The size of the difference of both sides' first gradients, relative to the gradient's."""
    one, other = (torch.load(gradient_file(folder, side), weights_only=True) for side in sides)
    return float((one - other).norm() / other.norm())
