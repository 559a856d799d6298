"""The training loop: one step for every objective; families give the objective, nobody overrides `fit`."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from data.batch import ListBatch
from data.sampling.loader import ListLoader
from engines.checkpoint.store import CheckpointStore
from engines.distributed import heartbeat, preemption
from engines.distributed.process_group import is_main, world_size
from engines.protocol import Engine, NotFinite
from evaluation.evaluator import EvaluationResult, Evaluator
from inference.interruptible import Interruptible
from losses.contracts import LossInputs, Statistics, input_names
from models.dropout import run_without_dropout
from runs.directory import RunDirectory
from runs.loggers.logger import Logger
from trainers.batches import Batches
from trainers.guards import check_adapters_moved, explained, write_down
from trainers.loss_inputs import make_loss_inputs
from trainers.options import TrainerConfig
from trainers.reference import Reference
from trainers.step import GradientCache, Representations
from trainers.step_statistics import batch_statistics, checksum
from trainers.teacher import AuxiliaryModel, auxiliary_inputs


class Trainer(ABC):
    """Trains `engine.model` on candidate lists; subclasses give `objective`."""

    steps_per_batch = 1

    def __init__(
        self,
        config: TrainerConfig,
        *,
        model: nn.Module,
        engine_config: Any,
        loader: ListLoader,
        padding: dict[str, int],
        loss: Any,
        evaluator: Evaluator | None,
        run: RunDirectory,
        logger: Logger,
        seed: int,
        frozen: Mapping[str, nn.Module] | None = None,
        start_result: EvaluationResult | None = None,
    ):
        """`start_result`: what `evaluator` says of `model` as it is, where that is known."""
        self.config = config
        referred = [name.removeprefix("reference_") for name in input_names(loss) if name.startswith("reference_")]
        if referred:  # else the model differs from its reference before the first update
            run_without_dropout(model, f"loss {type(loss).__name__}, which compares with a reference,")
        self.reference = Reference(model, padding, config.token_budget, referred) if referred else None
        self.engine: Engine = engine_config.build(
            model,
            options=config.optimizer_options(),
            schedule=config.make_schedule().build,
            max_grad_norm=config.max_grad_norm,
        )
        self.frozen = {
            name: AuxiliaryModel(
                look, name, token_budget=config.token_budget, device=self.engine.device, bf16=self.engine.bf16
            )
            for name, look in (frozen or {}).items()
        }
        self.loader = loader
        self.loss = loss
        self.evaluator = evaluator
        self.run = run
        self.logger = logger
        self.seed = seed
        self.backward = GradientCache(
            self.engine, padding, token_budget=config.token_budget, kept_chunks=config.kept_chunks, seed=seed
        )
        self.checkpoints = CheckpointStore(run.checkpoints, keep=config.keep_checkpoints, background=config.async_save)
        self.step = 0
        self.best_metric: float | None = None
        self.best_step: int | None = None
        self.warned_idle_ranks = False
        self.has_updated = False  # in this process
        self.started = 0.0
        self.best_result: EvaluationResult | None = None  # of dev at the best step, if this process has it
        self.start_result = start_result
        self.saved_step: int | None = None
        self.pending_evaluation = False  # of the step that a preempted run was resumed from
        self.totals = {"seconds": 0.0, "rows": 0, "tokens": 0}
        # Workers are not forked beside a thread that writes.
        self.batches = Batches(loader, self.steps_per_batch, before_workers=self.checkpoints.wait)

    @abstractmethod
    def objective(self, lists: LossInputs, batch: ListBatch) -> tuple[Tensor, Statistics]:
        """The loss over the whole global step (a scalar) and detached statistics."""

    def fit(self) -> None:
        self.resume()
        self.start()
        while self.step < self.config.max_steps:
            self.step += 1
            try:
                statistics = self.train_step(self.next_batch())
            except NotFinite as error:
                self.skip_batch(error)
                continue
            if self.due("log"):
                self.log(statistics)
            if preemption.agreed():
                self.leave()
            if self.due("eval"):
                self.evaluate()
            if self.due("save"):
                self.save()
        self.checkpoints.wait()
        self.batches.close()
        self.progress.close()

    def resume(self) -> None:
        """Continue from the checkpoint that the run directory was opened with, if there is one."""
        if self.run.checkpoint is None:
            return
        folder, state = self.run.checkpoint
        self.load(folder)
        self.saved_step = self.best_result = None  # of a trainer that goes back
        self.step, self.best_metric, self.best_step = state["step"], state["best_metric"], state["best_step"]
        self.totals, self.pending_evaluation = state["totals"], state["pending_evaluation"]
        if not self.checkpoints.point_to(self.step, self.best_step):
            self.best_metric = self.best_step = None  # its weights are gone: the next evaluation sets the mark
        self.batches.skipped_batches = state["skipped_batches"]
        self.load_family_state(state["family"])

    def skip_batch(self, error: NotFinite) -> None:
        """Write the batch down, and leave it out as `trainer.on_nonfinite` says, or raise."""
        batch, skipped_batches, config = self.batches.of(self.step), self.batches.skipped_batches, self.config
        is_left_out = config.on_nonfinite != "stop" and len(skipped_batches) < config.max_nonfinite
        action = config.on_nonfinite if is_left_out else "stop"
        if is_main():
            write_down(self.run.path / "nonfinite.jsonl", batch, error, step=self.step, action=action)
            self.progress.write(f"warning: step {self.step}, batch {batch.number}: {action}: {error}", file=sys.stderr)
        if not is_left_out:
            raise FloatingPointError(
                f"{error}: nonfinite.jsonl names the batch; {len(skipped_batches)} were left out before it: lower "
                "trainer.learning_rate, or leave out more by trainer.on_nonfinite=skip or rollback and "
                f"trainer.max_nonfinite ({config.max_nonfinite})"
            ) from error
        self.batches.skip_batch()
        if config.on_nonfinite == "skip":
            self.step -= 1
        else:
            self.rollback(self.batches.skipped_batches)

    def rollback(self, skipped_batches: list[int]) -> None:
        """To the newest checkpoint, as a resumed run, and from there without the batches `skipped_batches`."""
        self.checkpoints.wait()
        self.run.checkpoint = self.checkpoints.latest()
        assert self.run.checkpoint is not None, "a run that may go back begins with a checkpoint"
        self.run.cut_metrics(self.run.checkpoint[1])
        self.resume()
        self.batches.skipped_batches = skipped_batches
        self.progress.update(self.step - self.progress.n)

    def load(self, folder: Path) -> None:
        """Weights, optimizer and schedule of a checkpoint; ValueError with the remedy where a file of it is broken."""
        try:
            self.engine.load(folder)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{folder} cannot be read ({reason}): remove that folder, and the same command goes on from the "
                "checkpoint before it"
            ) from error

    def start(self) -> None:
        """Progress bar, model in training mode, and the dev metric of the untrained model, the first to be beaten."""
        self.progress = tqdm(
            initial=self.step,
            total=self.config.max_steps,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 30,  # seconds: a job's log file is not filled with bars
            disable=not is_main(),
        )
        self.engine.model.train()
        if self.reference is not None and self.config.reference == "precomputed":
            spare = 0 if self.config.on_nonfinite == "stop" else self.config.max_nonfinite
            numbers = self.batches.coming(self.step + 1, self.config.max_steps, spare)
            self.reference.precompute(numbers, self.batches.read, self.run.path, self.engine)
        owed = self.pending_evaluation
        if self.best_metric is None or owed:
            self.evaluate(self.start_result if self.step == 0 else None)
        if owed or (self.config.on_nonfinite == "rollback" and self.run.checkpoint is None):
            self.save()

    def next_batch(self) -> ListBatch:
        """The step's lists, the same on all ranks."""
        self.started = time.perf_counter()
        heartbeat.at(self.step)
        return self.batches.of(self.step)

    def loss_of(self, representations: Representations, batch: ListBatch) -> tuple[Tensor, Statistics]:
        """`objective` of all that losses may read, and the checksum of the scores."""
        inputs: dict[str, Any] = auxiliary_inputs(self.frozen, batch)
        if self.reference is not None:
            inputs |= self.reference.inputs(batch, self.engine)
        progress = (self.step - 1) / max(self.config.max_steps - 1, 1)
        lists = make_loss_inputs(representations, batch, step=self.step, progress=progress, seed=self.seed, **inputs)
        loss, statistics = self.objective(lists, batch)
        return loss, {"score_checksum": checksum(lists.list_scores().detach()[lists.mask]), **statistics}

    def train_step(self, batch: ListBatch) -> dict[str, Any]:
        """Gradients by chunks, then the update. Returns what to log; tensors are read only when logging is due."""
        with explained(batch, self.config):
            done = self.backward(batch.rows, lambda leaves: self.loss_of(leaves, batch), step=self.step)
        learning_rate = self.engine.learning_rate()
        grad_norm = self.engine.step()
        if not self.has_updated and learning_rate > 0 and grad_norm > 0:
            check_adapters_moved(self.engine.model)
            self.has_updated = True
        seconds = time.perf_counter() - self.started  # with the wait for data
        rows, tokens = len(batch.rows), int(batch.rows.lengths.sum())
        self.totals = {
            "seconds": self.totals["seconds"] + seconds,
            "rows": self.totals["rows"] + rows,
            "tokens": self.totals["tokens"] + tokens,
        }
        if done.num_chunks < world_size():
            self._warn_idle_ranks(done.num_chunks)
        return {
            "loss": done.loss,
            "grad_norm": grad_norm,
            **done.statistics,
            **batch_statistics(batch, self.loss),
            "learning_rate": learning_rate,
            "num_chunks": done.num_chunks,
            "padding_share": 1 - tokens / done.padded_tokens,
            "rows_per_s": rows / seconds,
            "tokens_per_s": tokens / seconds,
            "seconds": self.totals["seconds"],
        }

    def due(self, what: str) -> bool:
        """Whether `log`, `eval` or `save` is due at this step; all are at the last one."""
        return self.step % getattr(self.config, f"{what}_every") == 0 or self.step == self.config.max_steps

    def log(self, statistics: dict[str, Any]) -> None:
        metrics = {name: float(value) for name, value in statistics.items()}
        batch = self.batches.current
        source = {"source": batch.source} if batch is not None and batch.source else {}
        self.run.append_metrics({"step": self.step, "split": "train", **source, **metrics})
        self.logger.log({f"train/{name}": value for name, value in metrics.items()}, self.step)
        shown = {"loss": "loss", "reward_mean": "reward", "learning_rate": "lr", "rows_per_s": "rows/s"}
        self.progress.set_postfix(
            {short: f"{metrics[name]:.3g}" for name, short in shown.items() if name in metrics}, refresh=False
        )
        self.progress.update(self.step - self.progress.n)

    def evaluate(self, known: EvaluationResult | None = None) -> None:
        """Rerank dev, unless the result is known; a new best is saved and marked. A preemption ends it, and the resumed
        run evaluates again."""
        if self.evaluator is None:
            return
        try:
            result = known or self.evaluator.evaluate(Interruptible(self.engine).forward, self.engine.device)
        except preemption.Preempted:
            self.leave()
        self.pending_evaluation = False
        metrics = result.metrics.mean
        self.run.append_metrics({"step": self.step, "split": "dev", **metrics})
        self.logger.log({f"dev/{name}": value for name, value in metrics.items()}, self.step)
        value = metrics[self.evaluator.config.metric]
        if is_main():
            self.progress.write(f"step {self.step}: dev {self.evaluator.config.metric} {value:.4f}", file=sys.stderr)
        self.progress.unpause()  # the time left is that of training steps
        if self.best_metric is None or value > self.best_metric:
            self.best_metric, self.best_step, self.best_result = value, self.step, result
            self.save(best=True)

    def leave(self) -> NoReturn:
        """Save this step and end: the run was preempted."""
        if self.step > 0:
            self.pending_evaluation = self.evaluator is not None and (self.pending_evaluation or self.due("eval"))
            self.save()
            self.checkpoints.wait()
        self.progress.close()
        raise preemption.Preempted(f"at step {self.step}")

    def save(self, *, best: bool = False) -> None:
        """A checkpoint of this step, once: a new `best` has already been saved when saving is due."""
        if self.saved_step == self.step:
            return
        self.saved_step = self.step
        state = {
            "step": self.step,
            "best_metric": self.best_metric,
            "best_step": self.best_step,
            "totals": self.totals,
            "pending_evaluation": self.pending_evaluation,
            "skipped_batches": self.batches.skipped_batches,
            "family": self.family_state(),
            "engine": self.engine.name,
            "world_size": world_size(),
            "wandb_run_id": self.run.wandb_run_id(),
        }
        self.run.flush_metrics()
        shard = self.engine.shard()
        self.checkpoints.save(self.step, (shard.copied() if self.config.async_save else shard).write, state, best=best)

    def family_state(self) -> dict[str, Any]:
        """What a subclass needs to continue in the middle of a batch (JSON types)."""
        return {}

    def load_family_state(self, state: dict[str, Any]) -> None:
        """The inverse of `family_state`."""
        assert not state, "a family that stores a state restores it"

    def _warn_idle_ranks(self, num_chunks: int) -> None:
        if is_main() and not self.warned_idle_ranks:
            self.progress.write(
                f"note: a step has {num_chunks} chunk(s) for {world_size()} ranks, some idle: lower "
                f"trainer.token_budget ({self.config.token_budget}) or raise trainer.batch_size",
                file=sys.stderr,
            )
        self.warned_idle_ranks = True
