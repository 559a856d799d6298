"""plackett on a workload: steps as its trainer makes them, and forward passes over a corpus."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_parts.machine import device, now
from benchmarks.gpu_parts.workloads import Workload, draw_rows, make_backbone, model_flops, stand_in_for_peft, wrap

NUM_BATCHES = 4
BLOCKS, STEPS_PER_BLOCK = 5, 2


class Unavailable(RuntimeError):
    """What a part needs is not installed, or does not exist."""


def make_model(workload: Workload, toy: bool, *, packed: bool) -> Any:
    """The model, whose rows are packed by models/packing.py if asked for. Raises `Unavailable` if it cannot pack."""
    stand_in_for_peft()
    backbone = make_backbone(workload, device(toy), toy)
    if packed:
        try:
            from models.packing import pack_rows, reason_against
        except ImportError as error:
            raise Unavailable(f"models/packing.py: {error}") from error
        base = backbone if workload.kind == "embedder" else backbone.base_model
        if reason := reason_against(base):
            raise Unavailable(reason)
        pack_rows(base)
    return wrap(workload, backbone)


def make_batch(workload: Workload, number: int, toy: bool) -> Any:
    """The batch of this number, as the loader would give it."""
    from data.batch import ListBatch, ListExample, TokenSequences

    examples = []
    for index, rows in enumerate(draw_rows(workload, 100 * number, toy)):
        examples.append(
            ListExample(
                query_id=f"q{index}",
                document_ids=[f"d{index}.{i}" for i in range(workload.documents)],
                labels=np.array([i == 0 for i in range(workload.documents)], dtype=np.float32),
                teacher_scores=np.full(workload.documents, np.nan, dtype=np.float32),
                sequences=TokenSequences(
                    {"input_ids": np.concatenate(rows).astype(np.int32)},
                    np.array([len(row) for row in rows], dtype=np.int32),
                ),
                query_hash=number * 100_000 + index,
                document_hashes=np.arange(workload.documents) + 1000 * (number * 100_000 + index),
            )
        )
    return ListBatch(number, examples)


class Steps:
    """Training steps, as `trainers.trainer.Trainer.train_step` makes them."""

    def __init__(self, workload: Workload, model: Any, toy: bool, *, compiled: bool = False, kept: int | None = None):
        from torch.optim.lr_scheduler import LambdaLR

        from data.collate import Collator
        from engines.optimizers import OptimizerOptions
        from engines.torch_engine import TorchEngineConfig
        from losses.info_nce import InfoNCE
        from losses.softmax_cross_entropy import SoftmaxCrossEntropy
        from trainers.sharded.share import Sharing
        from trainers.step import GradientCache

        self.loss: Any = InfoNCE() if workload.kind == "embedder" else SoftmaxCrossEntropy()
        self.engine = TorchEngineConfig(precision="bf16", compile=compiled).build(
            model, OptimizerOptions(learning_rate=1e-5), lambda each: LambdaLR(each, lambda _: 1.0), max_grad_norm=1.0
        )
        kept = workload.kept_chunks if kept is None else kept
        self.cache = GradientCache(self.engine, Collator({}, workload.token_budget), kept_chunks=kept, seed=0)
        self.batches = [make_batch(workload, number, toy) for number in range(NUM_BATCHES)]
        self.number, self.sharing = 0, Sharing()

    def step(self) -> float:
        """Make one update; the norm of its gradient."""
        from losses.contracts import compute_loss
        from losses.math.similarity import similarity_named
        from trainers.loss_inputs import make_loss_inputs
        from trainers.nonfinite import FiniteCheck
        from trainers.step import gradients_of

        batch, following = (self.batches[(self.number + i) % NUM_BATCHES] for i in range(2))
        self.number += 1
        plan = self.cache.plan_batch(batch, self.number)
        outputs = self.cache.forward(plan)
        representations = self.cache.gather(plan, outputs)
        check = FiniteCheck(self.number, representations, plan.own_rows)
        share = self.sharing.of(batch)
        options = {"seed": 0, "step": self.number, "progress": 0.0, "similarity": similarity_named("cosine")}
        loss, _ = compute_loss(self.loss, make_loss_inputs(representations, batch, share=share, **options))
        gradients = check.spread(loss, gradients_of(loss, representations))
        self.last_loss = loss.detach()
        self.cache.backward(plan, outputs, gradients)
        self.cache.prefetch(following, self.number + 1)
        return self.engine.step(check.finite)


def train(workload: Workload, toy: bool, *, packed: bool) -> dict[str, Any]:
    """The speed of training."""
    model = make_model(workload, toy, packed=packed)
    steps = Steps(workload, model, toy)
    first_norm = steps.step()
    first = {"first_loss": float(steps.last_loss), "first_norm": first_norm}
    lengths = [batch.sequences.lengths for batch in steps.batches]
    return first | measure(workload, model, steps.step, lengths, toy)


def measure(
    workload: Workload, model: Any, step: Callable[[], Any], lengths: list[np.ndarray], toy: bool
) -> dict[str, Any]:
    """The median time of a step over several blocks, after a warm-up on every batch. One step has been made."""
    for _ in range(NUM_BATCHES - 1):
        step()
    if not toy:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(2 if toy else BLOCKS):
        started = now(toy)
        for _ in range(NUM_BATCHES if not toy else STEPS_PER_BLOCK):
            step()
        times.append((now(toy) - started) / (NUM_BATCHES if not toy else STEPS_PER_BLOCK))
    seconds = statistics.median(times)
    tokens, rows = (sum(map(f, lengths)) / len(lengths) for f in (np.sum, len))
    flops = sum(model_flops(workload, model, each, training=True) for each in lengths) / len(lengths)
    return {
        "seconds_per_step": seconds,
        "blocks_s": times,
        "rows_per_s": rows / seconds,
        "tokens_per_s": float(tokens / seconds),
        "model_flops_per_s": flops / seconds,
        "peak_memory_mib": None if toy else round(torch.cuda.max_memory_allocated() / 2**20),
    }


def infer(workload: Workload, toy: bool, *, packed: bool) -> dict[str, Any]:
    """The speed of forward passes: a corpus encoded, or lists of 100 documents reranked."""
    from data.batch import TokenSequences
    from data.collate import Collator
    from engines.precision import MixedPrecision
    from inference.score import represent_sequences

    model = make_model(workload, toy, packed=packed)
    rows = [row for number in range(1 if toy else 4) for each in draw_rows(workload, number, toy) for row in each]
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    sequences = TokenSequences({"input_ids": np.concatenate(rows).astype(np.int32)}, lengths)
    runner, collator = MixedPrecision(model.eval(), torch.bfloat16), Collator({}, 2 * workload.token_budget)
    times = []
    for _ in range(2 if toy else 6):
        started = now(toy)
        represent_sequences(runner, sequences, collator)
        times.append(now(toy) - started)
    seconds = statistics.median(times[1:])
    flops = model_flops(workload, model, lengths, training=False)
    speeds = {"rows_per_s": len(rows) / seconds, "tokens_per_s": float(lengths.sum() / seconds)}
    return {"seconds": seconds, **speeds, "model_flops_per_s": flops / seconds}


def compilation(toy: bool) -> dict[str, Any]:
    """What engine.compile=true costs and brings, on the embedder: the steps after which it has paid.

    At toy sizes graphs are captured, but not compiled to machine code, which takes minutes.
    """
    from benchmarks.gpu_parts.workloads import of_size
    from engines import torch_engine

    if toy:
        torch_engine.compile_in_place = lambda model: model.compile(dynamic=True, backend="eager")
    workload = of_size("embedder", toy)
    found: dict[str, Any] = {}
    for name, compiled in (("eager", False), ("compiled", True)):
        steps = Steps(workload, make_model(workload, toy, packed=False), toy, compiled=compiled)
        started = now(toy)
        for _ in range(NUM_BATCHES):
            steps.step()
        found[f"{name}_first_steps_s"] = now(toy) - started
        started = now(toy)
        for _ in range(NUM_BATCHES):
            steps.step()
        found[f"{name}_s_per_step"] = (now(toy) - started) / NUM_BATCHES
        del steps
        gc.collect()
    saved = found["eager_s_per_step"] - found["compiled_s_per_step"]
    extra = found["compiled_first_steps_s"] - found["eager_first_steps_s"]
    return found | {"pays_after_steps": round(extra / saved) if saved > 0 else None}
