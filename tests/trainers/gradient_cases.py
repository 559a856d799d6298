"""The cases of the gradient suite, what a case computes on the ranks, and its reference, written without an engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LambdaLR

from data.batch import ListBatch, ListExample, Repeats, TokenSequences
from data.collate import Collator, pad
from data.hashing import stable_hash
from engines.deepspeed.engine import DeepSpeedEngineConfig
from engines.distributed.process_group import rank, world_size
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig
from inference.runner import similarity_of
from losses.contracts import LossInputs, compute_loss
from losses.info_nce import InfoNCE
from losses.kl_distillation import KLDistillation
from losses.matryoshka import Matryoshka
from models.bi_encoder import BiEncoder
from models.cpu import embedding
from models.loading.embedder import embedder_options
from tensors.ragged import concatenate
from trainers.loss_inputs import make_loss_inputs
from trainers.sharded.share import Sharing
from trainers.step import GradientCache, Representations, gradients_of

SEED, STEP, LEARNING_RATE = 7, 3, 0.1
NUM_LISTS = 10
NUM_TOKENS = 120  # of the tiny vocabulary

PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # also these small weights
ENGINES: dict[str, Any] = {
    "torch": TorchEngineConfig(precision="fp32"),
    "zero0": DeepSpeedEngineConfig(stage=0, precision="fp32"),
    "zero1": DeepSpeedEngineConfig(stage=1, precision="fp32"),
    "zero2": DeepSpeedEngineConfig(stage=2, precision="fp32"),
    "zero2_by_chunk": DeepSpeedEngineConfig(stage=2, precision="fp32", coalesce=False),  # as large models have it
    "zero3": DeepSpeedEngineConfig(stage=3, precision="fp32", config=PARTITION_ALL),
}
# All read the temperature off the model, which learns it.
INFO_NCE = InfoNCE(temperature=None)
LOSSES: dict[str, Any] = {
    "info_nce": INFO_NCE,
    "symmetric": InfoNCE(temperature=None, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"),
    "matryoshka": Matryoshka(INFO_NCE, dims=(32, 16, 8)),
    "distillation": KLDistillation(),
}


@dataclass(frozen=True)
class Case:
    """`accumulation`: chunks that a rank runs in the step. `kept`: whether all their graphs are kept, or all are
    recomputed. `negatives`: hard ones per list."""

    ranks: int
    engine: str
    accumulation: int
    kept: str
    dropout: float
    negatives: str
    loss: str

    def __str__(self) -> str:
        return "-".join(str(value) for value in astuple(self))


VALUES: dict[str, tuple[Any, ...]] = {
    "ranks": (2, 4, 1),
    "engine": tuple(ENGINES),
    "accumulation": (1, 4),
    "kept": ("whole", "chunked"),
    "dropout": (0.0, 0.1),
    "negatives": ("0", "2", "ragged"),
    "loss": tuple(LOSSES),
}
assert list(VALUES) == [field.name for field in fields(Case)]


def all_cases() -> list[Case]:
    return [Case(*values) for values in product(*VALUES.values())]


@cache
def covering_cases() -> list[Case]:
    return covering(all_cases())


def covering(cases: Sequence[Case]) -> list[Case]:
    """A few of them, among which every two values of two factors meet: the one with most new pairs, again and again."""
    missing = {pair for case in cases for pair in _pairs(case)}
    chosen = []
    while missing:
        best = max(cases, key=lambda case: len(missing & _pairs(case)))
        missing -= _pairs(best)
        chosen.append(best)
    return chosen


@cache
def _pairs(case: Case) -> frozenset[Any]:
    return frozenset(combinations(enumerate(astuple(case)), 2))


@cache
def make_batch(negatives: str, several: bool) -> ListBatch:
    """Lists of random texts of 3 to 14 tokens, one relevant document each, the first ragged one with two.

    `several`: of two relevant documents where there are no negatives, since a list of one teaches no distribution.
    """
    draw = np.random.default_rng(5)
    examples = []
    for number in range(NUM_LISTS):
        relevant = 2 if (negatives == "0" and several) or (negatives == "ragged" and number == 0) else 1
        size = relevant + {"0": 0, "2": 2, "ragged": number % 4}[negatives]
        lengths = draw.integers(3, 15, size=size + 1)
        ids = draw.integers(5, NUM_TOKENS, size=int(lengths.sum()))
        examples.append(
            ListExample(
                query_id=f"q{number}",
                document_ids=[f"d{number}.{i}" for i in range(size)],
                labels=np.array([i < relevant for i in range(size)], dtype=np.float32),
                teacher_scores=draw.normal(size=size).astype(np.float32),
                sequences=TokenSequences({"input_ids": ids.astype(np.int32)}, lengths.astype(np.int32)),
                query_hash=number,
                document_hashes=np.array([100 * number + i for i in range(size)]),
            )
        )
    return ListBatch(0, examples)


def batch_of(case: Case) -> ListBatch:
    return make_batch(case.negatives, case.loss == "distillation")


@dataclass(frozen=True)
class CutCollator(Collator):
    """Cuts a step into that many chunks, also such as ranks cannot share evenly."""

    number: int = 1

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        longest_first = np.argsort(-np.asarray(lengths), kind="stable")
        return [chunk.tolist() for chunk in np.array_split(longest_first, self.number)]


def num_chunks(case: Case) -> int:
    """As many chunks as give each rank `accumulation`; on several ranks with ragged lists some have one fewer (and
    where there is one chunk for two ranks, none)."""
    return case.accumulation * case.ranks - (case.negatives == "ragged" and case.ranks > 1)


@cache
def make_model(folder: Path, dropout: float) -> BiEncoder:
    options: Any = embedder_options(str(folder))
    options = replace(options, temperature=0.2, learn_temperature=True, max_length=32)
    options = replace(options, dropout=dropout) if hasattr(options, "dropout") else options
    return options.build(seed=0)


def objective(case: Case, model: Any, representations: Representations) -> tuple[Tensor, dict[str, Tensor]]:
    of_step = {"step": STEP, "progress": 0.0, "seed": SEED, "similarity": similarity_of(model)}
    lists = make_loss_inputs(representations, batch_of(case), **of_step)
    return compute_loss(LOSSES[case.loss], lists)


Result = tuple[float, dict[str, Tensor], dict[str, Tensor]]  # loss, gradients, weights after a step of SGD


def measure_all(folder: Path, cases: Iterable[Case]) -> list[Result]:
    """The results, on every rank. The embeddings of these small models have gradients by row, as large ones do."""
    embedding.MIN_VALUES = 1
    return [measure(folder, case) for case in cases]


def measure(folder: Path, case: Case) -> Result:
    """By an engine, as the trainer does it; the tensors on rank 0 alone."""
    assert world_size() == case.ranks
    model = copy.deepcopy(make_model(folder, case.dropout))
    engine = ENGINES[case.engine].build(
        model,
        OptimizerOptions(name="sgd", learning_rate=LEARNING_RATE, weight_decay=0.0),
        lambda optimizer: LambdaLR(optimizer, lambda _: 1.0),
        max_grad_norm=float("inf"),
    )
    kept = num_chunks(case) if case.kept == "whole" else 0
    collator = CutCollator(model.tokenizer.padding, 1, num_chunks(case))
    loss = run_chunks(engine, collator, kept, batch_of(case), lambda lists: compute_loss(LOSSES[case.loss], lists))
    gradients = accumulated_gradients(engine)
    norm = engine.step()
    assert abs(norm / get_total_norm(gradients.values()).item() - 1) < 1e-5, "the norm is another gradient's"
    with engine.full_weights():
        weights = {name: value.detach().clone() for name, value in engine.model.named_parameters()}
    if world_size() > 1:
        of_main = torch.cat([value.flatten() for value in weights.values()])
        dist.broadcast(of_main, src=0)
        assert of_main.equal(torch.cat([value.flatten() for value in weights.values()])), "the ranks' weights differ"
    if hasattr(engine, "engine"):
        engine.engine.destroy()
    return (loss, gradients, weights) if rank() == 0 else (loss, {}, {})


def run_chunks(
    engine: Any,
    collator: Collator,
    kept_chunks: int,
    batch: ListBatch,
    objective: Callable[[LossInputs], tuple[Tensor, dict[str, Tensor]]],
    repeats: Repeats | None = None,
    negatives: str = "global",
) -> float:
    """Forward and backward of a step, as `Trainer.train_step` makes them. Returns the loss."""
    cache = GradientCache(engine, collator, kept_chunks=kept_chunks, seed=SEED)
    plan = cache.plan(batch.sequences, STEP, repeats, batch.sequences_per_list)
    outputs = cache.forward(plan)
    representations = cache.gather(plan, outputs)
    share = Sharing(negatives).of(batch)
    of_step = {"step": STEP, "progress": 0.0, "seed": SEED, "similarity": similarity_of(engine.model)}
    loss, _ = objective(make_loss_inputs(representations, batch, share=share, **of_step))
    cache.backward(plan, outputs, gradients_of(loss, representations))
    return loss.item()


def accumulated_gradients(engine: Any) -> dict[str, Tensor]:
    """The gradient that `engine.step` is about to apply, by parameter."""
    trainable = {name: value for name, value in engine.model.named_parameters() if value.requires_grad}
    if engine.name == "torch":
        return {name: value.grad.clone() for name, value in trainable.items()}
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(value).detach().clone() for name, value in trainable.items()}


def reference(folder: Path, case: Case, *, unchunked: bool) -> Result:
    """One process, all graphs kept, one backward: over the same chunks with the same keys, or over one batch."""
    cut = CutCollator({}, 1, 1 if unchunked else num_chunks(case))
    plan = cut.plan(batch_of(case).sequences.lengths.tolist())
    simplest = Case(1, "torch", 1, "whole", case.dropout, case.negatives, case.loss)
    return _reference(folder, simplest, tuple(tuple(chunk) for chunk in plan))


@cache
def _reference(folder: Path, case: Case, plan: tuple[tuple[int, ...], ...]) -> Result:
    model, rows = copy.deepcopy(make_model(folder, case.dropout)), batch_of(case).sequences
    outputs = []
    for chunk in plan:
        torch.manual_seed(stable_hash("chunk", SEED, STEP, chunk[0]))
        outputs.append(model(**pad(rows, chunk, model.tokenizer.padding)))
    order = torch.tensor([row for chunk in plan for row in chunk]).argsort()
    representations = {name: concatenate([output[name] for output in outputs])[order] for name in outputs[0]}
    value, _ = objective(case, model, representations)
    value.backward()
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    gradients = {name: weight.grad for name, weight in trainable.items()}
    weights = {
        name: weight.detach() - LEARNING_RATE * gradients.get(name, torch.zeros(()))
        for name, weight in model.named_parameters()
    }
    return value.item(), gradients, weights
