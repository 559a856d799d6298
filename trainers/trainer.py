"""The training loop. One step serves all objectives: subclasses define `objective` and do not override `fit`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from data.batch import ListBatch
from data.progress import Progress
from engines.checkpoint.store import CheckpointStore
from engines.distributed import heartbeat, preemption
from engines.distributed.collectives import note_signal
from engines.distributed.nodes import layout
from engines.host_copy import HostCopy
from engines.protocol import Engine, NotFinite, Overflow
from evaluation.evaluator import EvaluationResult
from inference.interruptible import Interruptible
from inference.runner import similarity_of
from inference.shared_prefix import list_collator
from losses.contracts import LossInputs, Statistics, input_names, is_sharded
from models.dropout import run_without_dropout
from trainers.batches import Batches
from trainers.first_update import check_adapters_moved
from trainers.loss_inputs import joined_int8_ranges, keep_int8_ranges, make_loss_inputs
from trainers.nonfinite import FiniteCheck, nonfinite_line, stop_message
from trainers.options import TrainerConfig
from trainers.out_of_memory import explain_out_of_memory
from trainers.parts import TrainerParts
from trainers.reference import make_reference
from trainers.refresh.refresher import Refresher
from trainers.sharded.share import Sharing
from trainers.state import TrainState, load_engine
from trainers.step import GradientCache, Representations, gradients_of
from trainers.step_statistics import batch_statistics, checksum, cost_statistics, note
from trainers.teacher import AuxiliaryModel, auxiliary_inputs
from trainers.teacher_scale import POOLED, measure_scales, standardized_inputs
from trainers.training_progress import TrainingProgress


class Trainer(ABC):
    """Trains `engine.model` on candidate lists. Subclasses define `objective`."""

    def __init__(self, config: TrainerConfig, parts: TrainerParts):
        self.config = config
        self.updates_per_epoch = parts.loader.plan.batches_per_epoch * config.updates_per_batch
        self.max_steps = config.num_steps(parts.loader.plan.batches_per_epoch)
        self.losses, self.evaluator = parts.losses, parts.evaluator
        self.run, self.logger, self.seed = parts.run, parts.logger, parts.seed
        if config.runs_without_dropout:
            run_without_dropout(parts.model, type(self).__name__)
        tokenizer: Any = parts.model.tokenizer
        self.tokenizer = tokenizer
        collator = list_collator(parts.model, tokenizer.padding, config.token_budget)
        self.reference = make_reference(parts.model, collator, parts.losses)  # before the engine wraps the model
        self.engine: Engine = parts.engine.build(
            parts.model,
            options=config.optimizer_options(),
            schedule=config.make_schedule(self.max_steps).build,
            max_grad_norm=config.max_grad_norm,
        )
        options: Any = {"device": self.engine.device, "autocast": self.engine.autocast}
        options["token_budget"] = config.token_budget
        models = parts.auxiliary_models.items()
        self.auxiliary_models = {name: AuxiliaryModel(model, name, **options) for name, model in models}
        step_options: Any = {"kept_chunks": config.kept_chunks, "merge_repeats": config.merge_repeats}
        self.gradient_cache = GradientCache(self.engine, collator, seed=self.seed, **step_options)
        self.checkpoints = CheckpointStore(
            parts.run.checkpoints, keep=config.keep_checkpoints, background=config.async_save
        )
        self.sharing = Sharing(config.negatives)
        # Workers are not forked while a thread writes a checkpoint.
        self.batches = Batches(parts.loader, config.updates_per_batch, before_workers=self.checkpoints.wait)
        self.refresher = None
        if config.refresh_every:
            self.refresher = Refresher(config, parts.loader, parts.run.path, seed=self.seed)
        self.state = TrainState()
        # The following is not saved: it belongs to this process only.
        self.int8_ranges: dict[int, Tensor] = {}  # of this step; the model keeps them once it is updated
        self.best_result: EvaluationResult | None = parts.start_result  # on dev at the best step
        self.saved_step: int | None = None
        self.has_updated = False

    @abstractmethod
    def objective(self, lists: LossInputs, batch: ListBatch) -> tuple[Tensor, Statistics]:
        """Compute the loss of the whole global step (a scalar) and detached statistics. CONTRIBUTING.md: `sharded`."""

    def loss_of(self, batch: ListBatch) -> Any:
        """The loss of this batch: that of the data set which all its lists come from."""
        return self.losses.of(batch.source)

    @property
    def stopped_early(self) -> bool:
        """Whether the last evaluations on dev end training before `max_steps`."""
        patience, state = self.config.early_stopping_patience, self.state
        return patience is not None and state.evaluations_since_best >= patience and state.step < self.max_steps

    def fit(self) -> None:
        """Train until `max_steps`, or until it is stopped early."""
        self.resume()
        self.start()
        with self.progress:
            while self.state.step < self.max_steps and not self.stopped_early:
                with self.progress.paused():
                    self.refresh()
                self.state.step += 1
                started = time.perf_counter()
                try:
                    statistics = self.train_step(self.next_batch())
                except Overflow as error:  # the same batch again, with the new loss scale
                    self.progress.write(f"step {self.state.step}: {error}")
                    self.state.step -= 1
                    self.state.add_totals(seconds=time.perf_counter() - started, rows=0, tokens=0)
                    continue
                except NotFinite as error:
                    self.skip_batch(error)
                    continue
                self.progress.move_to(self.state.step)
                if self.due("log"):
                    self.log(statistics)
                if preemption.agreed():
                    self.save_and_exit()
                with self.progress.paused():
                    if self.due("eval"):
                        self.evaluate()
                    if self.due("save") or self.stopped_early:
                        self.save()
        self.checkpoints.wait()
        self.batches.close()

    def train_step(self, batch: ListBatch) -> dict[str, Any]:
        """Make one update. Returns what to log.

        The host waits for the device once, in `engine.step`. What it must know is copied to it before, by HostCopy.
        """
        started = time.perf_counter()
        with explain_out_of_memory(batch, self.config, self.gradient_cache.kept):
            plan = self.gradient_cache.plan_batch(batch, self.state.step)
            outputs = self.gradient_cache.forward(plan)
            representations = self.gradient_cache.gather(plan, outputs)
            check = FiniteCheck(self.state.step, representations, plan.own_rows)
            loss, statistics = self.loss_and_statistics(representations, batch)
            gradients = check.spread(loss, gradients_of(loss, representations))
            self.gradient_cache.backward(plan, outputs, gradients)
        copied = HostCopy({"loss": loss, "no_signal": check.no_signal, **(statistics if self.due("log") else {})})
        del loss, statistics, representations, gradients  # frees memory for the optimizer
        self.prefetch()
        learning_rate = self.engine.learning_rate()
        try:
            grad_norm = self.engine.step(check.finite)
        except NotFinite as error:
            raise check.explain(error) from error
        finally:
            numbers = copied.read()
            note_signal(numbers.pop("no_signal"))
        keep_int8_ranges(self.engine.model, self.int8_ranges)
        if not self.has_updated and learning_rate > 0 and grad_norm > 0:
            check_adapters_moved(self.engine.model)
            self.has_updated = True
        seconds = self.batches.wait_s + time.perf_counter() - started
        self.state.add_totals(seconds=seconds, rows=len(batch.sequences), tokens=plan.num_tokens)
        self.state.add_truncation(batch.truncation)
        if batch.source in self.losses.by_source:
            self.state.add_loss(batch.source, numbers["loss"])
        note(self.progress, plan, batch, self.config, self.tokenizer, self.gradient_cache.kept, self.loss_of(batch))
        return {
            "loss": numbers.pop("loss"),
            "grad_norm": grad_norm,
            **numbers,
            **batch_statistics(batch, self.loss_of(batch), self.sharing),
            "learning_rate": learning_rate,
            **({} if self.refresher is None else {"refreshed_step": self.state.refreshed_step or 0}),
            **cost_statistics(plan, seconds),
            **({} if self.engine.loss_scale is None else {"loss_scale": self.engine.loss_scale}),
            "epoch": self.state.step / self.updates_per_epoch,
            "seconds": self.state.totals["seconds"],
        }

    def loss_and_statistics(self, representations: Representations, batch: ListBatch) -> tuple[Tensor, Statistics]:
        """Gather all inputs that losses may read and compute `objective`. The checksum of the scores is added to its
        statistics."""
        loss_of_batch, share = self.loss_of(batch), self.sharing.of(batch)
        read, device = input_names(loss_of_batch), self.engine.device
        inputs: dict[str, Any] = auxiliary_inputs(self.auxiliary_models, batch, read, share)
        scores = inputs.get("teacher_scores")
        inputs |= standardized_inputs(self.state.teacher_scales, batch, loss_of_batch, scores, device, share)
        if self.reference is not None and self.reference.is_read(batch):
            inputs |= self.reference.inputs(batch, self.engine, share)
        step, last = self.state.step, max(self.max_steps - 1, 1)
        inputs |= {"similarity": similarity_of(self.engine.model), "step": step, "progress": (step - 1) / last}
        lists = make_loss_inputs(representations, batch, share=share, seed=self.seed, **inputs)
        self.int8_ranges = joined_int8_ranges(self.engine.model, lists) if "int8_ranges" in read else {}
        lists = replace(lists, int8_ranges=self.int8_ranges)
        loss, statistics = self.objective(lists if is_sharded(self, "objective") else lists.whole(), batch)
        return loss, {"score_checksum": checksum(lists), **statistics}

    def resume(self) -> None:
        """Continue from the checkpoint that the run was opened with, if there is one."""
        if self.run.checkpoint is not None:
            self.restore(*self.run.checkpoint)

    def restore(self, folder: Path, state: TrainState) -> None:
        """Load a checkpoint and its state, and continue from there."""
        load_engine(self.engine, folder)
        self.state = replace(state)
        self.saved_step = self.best_result = None
        if not self.checkpoints.set_pointers(state.step, state.best_step):
            self.state.forget_best()  # its weights no longer exist
        self.load_family_state(state.family)
        self.scale_model()
        if self.refresher is None:
            self.state.refreshed_step = None
        else:
            self.refresher.restore(folder, state.refreshed_step)
            self.batches.restart()

    def start(self) -> None:
        """Precompute the reference's scores, and evaluate the starting model on dev: its metric is the first best
        one."""
        self.progress = TrainingProgress(self.state.step, self.max_steps)
        if self.config.max_epochs is not None:
            self.progress.write(self.config.describe_length(self.max_steps, self.updates_per_epoch))
        with self.progress.paused():
            self.prepare()

    def prepare(self) -> None:
        """Do what comes before the first step."""
        self.measure_teacher()
        self.engine.model.train()
        state, config = self.state, self.config
        if self.reference is not None and config.reference == "precomputed":
            spare = 0 if config.on_nonfinite == "stop" else config.max_nonfinite
            numbers = self.batches.upcoming(state.step + 1, self.max_steps, state.skipped_batches, spare)
            self.reference.precompute(numbers, self.batches.read, self.run.path, self.engine)
        was_pending = state.pending_evaluation
        if state.best_metric is None or was_pending:
            self.evaluate(self.best_result if state.step == 0 else None)
        if was_pending or (config.on_nonfinite == "rollback" and self.run.checkpoint is None):
            self.save()

    def measure_teacher(self) -> None:
        """Measure the scale of the teacher's scores, if a loss standardises them and it is not known. A fresh score
        head that has not been trained starts there."""
        state = self.state
        if state.teacher_scales:
            return
        numbers = self.batches.upcoming(1, self.max_steps, (), 0)
        state.teacher_scales = measure_scales(self.batches.read, numbers, self.losses, self.auxiliary_models)
        if state.teacher_scales:
            mean, deviation = state.teacher_scales[POOLED]
            self.progress.write(f"the teacher's scores: mean {mean:.4g}, standard deviation {deviation:.4g}")
        if state.teacher_scales and state.step == 0 and getattr(self.engine.model, "fresh_head", False):
            state.score_scale = state.teacher_scales[POOLED]
            self.scale_model()

    def scale_model(self) -> None:
        """Give the model's scores the scale that they were trained with."""
        if self.state.score_scale is not None:
            model: Any = self.engine.model
            model.scale_scores(*self.state.score_scale)

    def refresh(self) -> None:
        """Refresh the candidates of training lists, if it is due before the next step. If a preemption interrupts it,
        the resumed run makes it again."""
        state = self.state
        if self.refresher is None or not self.refresher.is_due(state.step):
            return
        started = time.perf_counter()
        self.checkpoints.wait()  # a checkpoint that is being written copies the refresh before
        batch = self.batches.number(state.step + 1, state.skipped_batches)
        try:
            num_queries = self.refresher.refresh(Interruptible(self.engine), step=state.step, batch=batch)
        except preemption.Preempted:
            self.save_and_exit(is_evaluated=True)
        self.batches.restart()
        state.refreshed_step = state.step
        seconds = time.perf_counter() - started
        state.add_totals(seconds=seconds, rows=0, tokens=0)
        what = f"refreshed the candidates of {num_queries:,} queries in {seconds:.0f} s"
        self.progress.write(f"step {state.step}: {what}")

    def next_batch(self) -> ListBatch:
        """Load the batch of this step, the same on all ranks."""
        heartbeat.set_step(self.state.step)
        return self.batches.for_step(self.state.step, self.state.skipped_batches)

    def prefetch(self) -> None:
        """Load the next step's batch, and copy its first tensors, while the device computes this step."""
        step = self.state.step + 1
        if step <= self.max_steps and (ahead := self.batches.ahead(step, self.state.skipped_batches)) is not None:
            self.gradient_cache.prefetch(ahead, step)

    def skip_batch(self, error: NotFinite) -> None:
        """Record the batch that is not finite. Then leave it out or raise, according to `trainer.on_nonfinite`."""
        batch, num_skipped, config = self.batches.current, len(self.state.skipped_batches), self.config
        assert batch is not None
        skips = config.on_nonfinite != "stop" and num_skipped < config.max_nonfinite
        action = config.on_nonfinite if skips else "stop"
        self.run.append_nonfinite(nonfinite_line(batch, error, step=self.state.step, action=action))
        what = f"step {self.state.step}, batch {batch.number}: {action}: {error}"
        self.progress.write(f"warning: {what}")
        self.logger.alert("a batch is not finite", what)
        if not skips:
            fp16, most = self.engine.autocast is torch.float16, config.max_nonfinite
            raise FloatingPointError(stop_message(batch, error, num_skipped, most, fp16=fp16)) from error
        if config.on_nonfinite == "rollback":
            self.rollback()
        else:
            self.state.step -= 1
        self.state.skip_batch(batch.number)

    def rollback(self) -> None:
        """Go back to the newest checkpoint, as a resumed run does, but keep the list of skipped batches."""
        self.checkpoints.wait()
        newest = self.checkpoints.latest()
        assert newest is not None, "a run that may roll back starts with a checkpoint"
        folder, state = newest[0], replace(TrainState.from_dict(newest[1]), skipped_batches=self.state.skipped_batches)
        self.run.cut_metrics(state)
        self.restore(folder, state)
        self.progress.move_to(self.state.step)

    def due(self, what: str) -> bool:
        """Whether `log`, `eval` or `save` is due at this step. At the last step all are."""
        step = self.state.step
        return step % getattr(self.config, f"{what}_every") == 0 or step == self.max_steps

    def log(self, statistics: dict[str, Any]) -> None:
        """Write the statistics of a step to metrics.jsonl, the logger and the progress bar, in a mixture with the mean
        loss of each data set since they were last written."""
        metrics = {name: float(value) for name, value in statistics.items()} | self.state.take_mean_losses()
        batch, step = self.batches.current, self.state.step
        source = {"source": batch.source} if batch is not None and batch.source else {}
        self.run.append_metrics({"step": step, "split": "train", **source, **metrics})
        self.logger.log({f"train/{name}": value for name, value in metrics.items()}, step)
        self.progress.show(metrics)

    def evaluate(self, known: EvaluationResult | None = None) -> None:
        """Evaluate on dev (or take the `known` result), and save a new best checkpoint. If a preemption interrupts it,
        the resumed run evaluates again."""
        if self.evaluator is None:
            return
        try:
            with Progress(f"dev at step {self.state.step}"):
                result = known or self.evaluator.evaluate(Interruptible(self.engine))
        except preemption.Preempted:
            self.save_and_exit()
        state, metrics = self.state, result.metrics.mean
        state.pending_evaluation = False
        self.run.append_metrics({"step": state.step, "split": "dev", **metrics})
        self.logger.log({f"dev/{name}": value for name, value in metrics.items()}, state.step)
        value = metrics[self.evaluator.config.metric]
        self.progress.write(f"step {state.step}: dev {self.evaluator.config.metric} {value:.4f}")
        if state.add_evaluation(value):
            self.best_result = result
            self.save(best=True)

    def save_and_exit(self, *, is_evaluated: bool = False) -> NoReturn:
        """Save this step and stop: the run was preempted."""
        state = self.state
        if state.step > 0:
            owes = state.pending_evaluation or (self.due("eval") and not is_evaluated)
            state.pending_evaluation = self.evaluator is not None and owes
            self.save()
            self.checkpoints.wait()
        raise preemption.Preempted(f"at step {state.step}")

    def save(self, *, best: bool = False) -> None:
        """Save a checkpoint of this step, unless it is already saved (as a new `best`)."""
        if self.saved_step == self.state.step:
            return
        self.saved_step = self.state.step
        state = replace(
            self.state,
            family=self.family_state(),
            engine=self.engine.name,
            **layout(),
            wandb_run_id=self.run.wandb_run_id(),
        )
        self.run.flush_metrics()
        shard = self.engine.shard()
        shard = shard.cpu_copy() if self.config.async_save else shard
        refresher = self.refresher

        def write(folder: Path) -> list[Path]:
            return [*shard.write(folder), *(refresher.copy_to(folder) if refresher is not None else ())]

        self.checkpoints.save(state.step, write, state.to_dict(), best=best)

    def family_state(self) -> dict[str, Any]:
        """The state that a subclass needs to continue in the middle of a batch, in JSON types."""
        return {}

    def load_family_state(self, state: dict[str, Any]) -> None:
        """Restore `family_state`."""
        assert not state, "a subclass that saves a state must restore it"
