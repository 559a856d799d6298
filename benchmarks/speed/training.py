"""Training on either side, step by step in turns, and the quality of what was trained."""

from __future__ import annotations

from typing import Any

from benchmarks.side_by_side import fit, make_trainer, watcher
from benchmarks.speed.setting import Job
from benchmarks.speed.turns import Turns

METRIC = "nDCG@10"


def train_ours(settings: Any, data: Any, turns: Turns) -> Any:
    """Train by plackett, as `launch/train.py` does. Returns the model."""
    from engines.memory.allocator import keep_freed_memory

    keep_freed_memory()
    trainer = make_trainer(settings, data)

    def on_step(statistics: dict[str, Any]) -> None:
        turns.losses.append(float(statistics["loss"]))
        turns.step_done()

    fit(trainer, on_step)
    return trainer.engine.model


def train_with(classes: tuple[Any, Any], settings: Any, turns: Turns, job: Job, **parts: Any) -> None:
    """Train by a trainer of sentence-transformers (`classes`: it and its arguments), with plackett's optimizer and
    schedule, and the model's prompts: the first column has queries, the others documents. `parts`: the model, the loss
    and the rows, which keep their order."""
    trainer_class, arguments_class = classes
    options = settings.trainer
    optimizer = options.optimizer_options().build(parts["model"])
    query, *documents = parts["train_dataset"].column_names
    roles = {query: "query", **dict.fromkeys(documents, "document")}
    prompts = {column: parts["model"].prompts.get(role) for column, role in roles.items()}
    arguments = arguments_class(
        output_dir=str(job.scratch),
        seed=settings.seed,
        prompts={column: prompt for column, prompt in prompts.items() if prompt},
        per_device_train_batch_size=options.batch_size,
        max_steps=options.max_steps,
        max_grad_norm=options.max_grad_norm,
        batch_sampler=in_order,
        logging_steps=options.log_every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = trainer_class(
        args=arguments,
        optimizers=(optimizer, options.make_schedule(job.setting.num_steps).build(optimizer)),
        callbacks=[watcher(turns.step_done)],
        **parts,
    )
    trainer.train()
    turns.losses += [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def in_order(dataset: Any, **options: Any) -> Any:
    """A batch sampler that keeps the order of the rows."""
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    return DefaultBatchSampler(SequentialSampler(dataset), **options)


def set_dropout(model: Any, probability: float | None) -> None:
    """Set the probability of every dropout layer; None keeps that of the pretrained model."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout) and probability is not None:
            module.p = probability


def quality(settings: Any, data: Any, model: Any) -> dict[str, float]:
    """The metric of plackett's evaluator on the test split."""
    from evaluation.evaluator import Prompts
    from inference.runner import ModuleRunner

    prompts = Prompts.of(data)
    test = settings.eval.build(data.split("test"), data.documents, model.tokenizer, prompts=prompts)
    metrics = test.evaluate(ModuleRunner(model, next(model.parameters()).device)).metrics.mean
    return {METRIC: metrics[METRIC]}
