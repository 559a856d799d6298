"""Every configured loss has one gradient, however its lists are split over ranks and chunks."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_samples import DIM, LAYERS, Sample, computed, configured, kinds, load_loss
from policies import Policy
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR

from data.batch import ListBatch, ListExample, TokenSequences
from data.collate import Collator, pad
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngine, TorchEngineConfig
from losses.contracts import compute_loss, is_policy
from losses.math import tiles
from losses.math.share import ALONE, Share
from trainers.loss_inputs import make_loss_inputs, part_of_lists
from trainers.sharded.share import Sharing
from trainers.step import GradientCache, Representations, gradients_of

TILES = tiles.ELEMENTS_PER_TILE, tiles.COLUMNS_PER_TILE, tiles.BYTES_PER_BLOCK
PER_LIST = ("reference_scores", "reference_logsumexp", "guide_queries", "guide_documents")
PER_LIST += ("teacher_queries", "teacher_documents")
LIST_SIZES = (5, 2, 6, 3, 4)  # one is of no relevant document, one has a weight of its own
ONE_CHUNK, SEVERAL_CHUNKS = 10_000, 30  # tokens
SPLITS = [(ONE_CHUNK, 1), (SEVERAL_CHUNKS, 0), (SEVERAL_CHUNKS, 2)]  # and chunks kept
CASES = [(name, kind) for name in configured() for kind in kinds(name)]
IDS = [f"{name}, {kind}" for name, kind in CASES]


class Model(nn.Module):
    """A scorer of rows, or an embedder with earlier layers and a temperature and bias that are learned."""

    def __init__(self, kind: str):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.embedding = nn.Embedding(50, DIM)
        self.layers = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(LAYERS + 1))
        self.score = nn.Linear(DIM, 1)
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Representations:
        hidden = (self.embedding(input_ids) * attention_mask.unsqueeze(-1)).sum(dim=1)
        layers = []
        for layer in self.layers:
            hidden = hidden + layer(hidden.tanh())
            layers.append(F.normalize(hidden, dim=-1))
        if self.kind == "scores":
            score = self.score(hidden.tanh()).squeeze(-1)
            return {"score": score, "logsumexp": F.softplus(score) + 0.1 * hidden.square().mean(-1)}
        per_row = {"scale": self.log_scale.exp().expand(len(hidden)), "bias": self.bias.expand(len(hidden))}
        return {"embedding": layers[-1], "layers": torch.stack(layers[:-1], dim=1), **per_row}


@cache
def batch(kind: str) -> ListBatch:
    """Ragged lists of ragged rows, laid out as the model of that kind reads them."""
    rng = np.random.default_rng(0)
    examples = []
    for number, size in enumerate(LIST_SIZES):
        rows = [rng.integers(1, 50, rng.integers(2, 9)).tolist() for _ in range(size + (kind == "embeddings"))]
        example = ListExample(
            query_id=str(number),
            document_ids=[str(document) for document in range(size)],
            labels=np.array([0, 2, 1, 0, 0, 1] if number != 3 else [0] * 6, dtype=np.float32)[:size],
            teacher_scores=rng.normal(size=size).astype(np.float32),
            sequences=TokenSequences.from_encoding({"input_ids": rows}),
            query_hash=number,
            document_hashes=10 * number + np.arange(size),
            weight=0.5 if number == 2 else 1.0,
        )
        examples.append(example)
    return ListBatch(0, examples)


@cache
def inputs(kind: str) -> dict[str, Any]:
    """What frozen models and the trainer give beside."""
    generator = torch.Generator().manual_seed(1)
    shape = batch(kind).mask.shape
    return {
        "reference_scores": torch.randn(shape, generator=generator),
        "reference_logsumexp": 4 + torch.rand(shape, generator=generator),
        "guide_queries": torch.randn(shape[0], 6, generator=generator),
        "guide_documents": torch.randn(*shape, 6, generator=generator),
        "teacher_queries": torch.randn(shape[0], DIM, generator=generator),
        "teacher_documents": torch.randn(*shape, DIM, generator=generator),
        "teacher_deviation": torch.tensor(2.0),
        "step": 3,
        "progress": 0.5,
        "seed": 7,
    }


def objective(
    loss: Any, kind: str, representations: Representations, share: Share = ALONE
) -> tuple[Tensor, dict[str, Tensor]]:
    per_list = {name: part_of_lists(value, share) for name, value in inputs(kind).items() if name in PER_LIST}
    given = inputs(kind) | per_list
    lists = make_loss_inputs(representations, batch(kind), share=share, **given)
    if not is_policy(loss):
        return computed(loss, lists)
    policy = Policy(loss)
    own = {name: getattr(lists, name) for name in ("labels", "mask", "scores", "logsumexp", "reference_scores")}
    old = {"old_scores": lists.teacher_scores, "old_logsumexp": F.softplus(lists.teacher_scores) + 0.5}
    sample = Sample(share=share, **own, **old, reference_logsumexp=lists.reference_logsumexp)
    return compute_loss(policy, policy.with_actions(sample))


def gradient(model: nn.Module) -> Tensor:
    """[weights], of all weights one after the other; 0 where a weight has none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def whole(loss: Any, kind: str) -> Tensor:
    """The gradient from one forward of all rows and one backward."""
    model, rows = Model(kind), batch(kind).sequences
    objective(loss, kind, model(**pad(rows, range(len(rows)), {})))[0].backward()
    return gradient(model)


@cache
def engine(kind: str) -> TorchEngine:
    options = OptimizerOptions(name="sgd")
    return TorchEngineConfig(precision="fp32").build(Model(kind), options, ConstantLR, max_grad_norm=float("inf"))


def split(loss: Any, kind: str, token_budget: int, kept_chunks: int) -> Tensor:
    """The gradient as a trainer makes it, on the ranks that there are. With recomputed chunks, in-batch negatives are
    computed in several tiles, and the texts of other ranks come in several blocks."""
    several = token_budget == SEVERAL_CHUNKS and kept_chunks == 0
    tiles.ELEMENTS_PER_TILE, tiles.COLUMNS_PER_TILE, tiles.BYTES_PER_BLOCK = (8, 4, 2**10) if several else TILES
    engine(kind).drop_gradients()
    cache = GradientCache(engine(kind), Collator({}, token_budget), kept_chunks=kept_chunks, seed=0)
    plan = cache.plan(batch(kind).sequences, step=3, sizes=batch(kind).sequences_per_list)
    assert (len(plan.chunks) == 1) == (token_budget == ONE_CHUNK)
    outputs = cache.forward(plan)
    representations = cache.gather(plan, outputs)
    value, _ = objective(loss, kind, representations, Sharing().of(batch(kind)))
    cache.backward(plan, outputs, gradients_of(value, representations))
    return gradient(engine(kind).model)


def split_all(cases: list[tuple[Any, str]]) -> list[list[Tensor] | str]:
    """Of every loss, the gradient of every split, or why there is none (the same on all ranks)."""
    found: list[list[Tensor] | str] = []
    for loss, kind in cases:
        try:
            found.append([split(loss, kind, *how) for how in SPLITS])
        except Exception as error:
            found.append(repr(error))
    return found


@cache
def on_ranks(world_size: int) -> list[dict[tuple[str, str], Any]]:
    """`split_all` of all configured losses, by rank: processes start once for each number of them."""
    losses = [(load_loss(name), kind) for name, kind in CASES]
    results = [split_all(losses)] if world_size == 1 else run_ranks(split_all, world_size, losses, timeout_s=280)
    return [dict(zip(CASES, of_rank, strict=True)) for of_rank in results]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("name", "kind"), CASES, ids=IDS)
def test_the_gradient_is_that_of_the_whole(name: str, kind: str, world_size: int):
    expected = whole(load_loss(name), kind)
    assert expected.norm() > 1e-4
    for rank, found in enumerate(on_ranks(world_size)):
        gradients = found[name, kind]
        assert not isinstance(gradients, str), gradients
        for how, value in zip(SPLITS, gradients, strict=True):
            error = (value - expected).norm() / expected.norm()
            assert error < 1e-5, f"rank {rank} of {world_size}, tokens per chunk and chunks kept: {how}"
