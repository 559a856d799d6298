"""Losses of every contract on the lists of a rank: value, statistics and gradient of the whole, on 3 and 5 ranks.

The sample has 4 lists: on 3 ranks some have a list of padding, on 5 one has nothing else. Tiles and blocks are small,
so a rank's rows meet several blocks of the texts of others.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from loss_samples import PER_DOCUMENT, PER_LIST, Result, Sample, embedded_lists, scored_lists
from loss_samples import Case as Whole
from policies import VARIANTS, Policy
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from data.batch import ListBatch
from engines.distributed.process_group import rank, world_size
from engines.distributed.testing import run_ranks
from losses.contracts import ListLoss, MatrixLoss, WrapperLoss, compute_loss, is_sharded, whole_losses
from losses.cosent import AnglE, CoSENT
from losses.embedding_distillation import EmbeddingDistillation
from losses.info_nce import DIRECTIONS, InfoNCE
from losses.kto import KTO
from losses.list_mle import ListMLE
from losses.math import tiles
from losses.math.share import ALONE, Share, with_whole
from losses.matryoshka import Matryoshka, Matryoshka2D
from losses.quantization_aware import QuantizationAware
from losses.siglip import SigLIP
from losses.softmax_cross_entropy import SoftmaxCrossEntropy
from losses.triplet import Triplet
from losses.weighted_sum import Term, WeightedSum
from trainers.loss_inputs import part_of_lists
from trainers.sharded.share import Sharing

OF_BATCH = {"labels", "mask", "query_hashes", "document_hashes", "isolated", "teacher_scores", "weights"}


class Nearest(MatrixLoss):
    """A user's: every query and the documents of all lists. It knows nothing of ranks."""

    inputs = ("scale",)

    def __call__(self, queries, documents, labels, mask, *, weights=None, scale, **inputs):
        products = (queries @ documents[mask].T * scale).logsumexp(dim=1)
        return products.mean() + (documents[labels > 0].square().sum() if weights is None else products @ weights)


class Counting(SoftmaxCrossEntropy):
    """A user's, who adds to the call of a list loss what depends on all lists."""

    def __call__(self, scores, labels, mask, *, weights=None, **inputs):
        return super().__call__(scores, labels, mask, weights=weights, **inputs) * mask.sum()


class Bare:
    contract = "list"

    def __call__(self, scores, labels, mask):
        return scores[mask].std()


class Plain(InfoNCE):
    """A user's, written for a single rank: it must not be given a part and believe that it is all."""

    def __call__(self, queries, documents, labels, mask, **inputs):
        return super().__call__(queries, documents, labels, mask, **inputs) + len(queries) * queries.square().sum()


@dataclass(frozen=True)
class Squared(WrapperLoss):
    """A user's: the square of a loss, and a mean over the queries. `sharded`: without the mean."""

    loss: Any
    adds: bool = True

    @property
    def sharded(self) -> bool:
        return not self.adds

    @property
    def losses(self) -> tuple[Any, ...]:
        return (self.loss,)

    def __call__(self, lists):
        value, _ = compute_loss(self.loss, lists)
        return value**2 + (lists.queries.square().mean() if self.adds else 0), {"inner": value.detach()}


class OfScores(ListLoss):
    """A list loss that reads the other lists, and says so."""

    depends_on_other_lists = True

    def per_list(self, scores, labels, mask, **inputs):
        scores = scores.masked_fill(~mask, 0.0)
        return (scores - scores.sum() / mask.sum()).square().sum(-1), mask.any(-1)


EMBEDDINGS: dict[str, Any] = {
    "info_nce": InfoNCE(),
    "all directions": InfoNCE(directions=DIRECTIONS, temperature=None),
    "each direction": InfoNCE(directions=DIRECTIONS, partition_mode="per_direction", in_batch="positives"),
    "margins": InfoNCE(margin=0.05, margin_strategy="relative", positive_margin=0.1, positive_margin_form="arcface"),
    "guide": InfoNCE(guide_margin=0.1, directions=("query_to_doc", "query_to_query", "doc_to_doc")),
    "hardness": InfoNCE(hardness_mode="in_batch_negatives", hardness_strength=2.0),
    "own lists": InfoNCE(in_batch="none"),
    "siglip": SigLIP(temperature=None, bias=None),
    "triplet": Triplet(in_batch="all"),
    "hardest": Triplet(in_batch="positives", negatives="hardest", distance="euclidean"),
    "semi-hard": Triplet(in_batch="all", negatives="semi_hard", margin=None),
    "cosent": CoSENT(temperature=None),
    "angle": AnglE(),
    "embeddings": EmbeddingDistillation(distance="squared"),
    "similarities": EmbeddingDistillation(target="similarities"),
    "matryoshka": Matryoshka(InfoNCE(temperature=None), dims=(64, 16)),
    "layers": Matryoshka2D(Matryoshka(SigLIP(), dims=(64, 8)), n_layers_per_step=None),
    "quantised": QuantizationAware(InfoNCE(), quantize_queries=True),
    "sum": WeightedSum(
        {"one": Term(InfoNCE()), "two": Term(SoftmaxCrossEntropy(), 0.5), "user's": Term(Nearest(), 0.1)}
    ),
    "user's matrix": Nearest(),
    "user's wrapper": Squared(InfoNCE(temperature=None)),
    "user's sharded wrapper": Squared(InfoNCE(temperature=None), adds=False),
    "user's subclass": Plain(),
    "user's list loss": OfScores(),
}
SCORES: dict[str, Any] = {
    "softmax": SoftmaxCrossEntropy(),
    "ties": ListMLE(),
    "kto": KTO(),
    "bare": Bare(),
    "own call": Counting(),
    "of scores": OfScores(),
    **{name: Policy(policy) for name, policy in VARIANTS.items()},
}
WHOLE = {
    "user's matrix",
    "user's wrapper",
    "user's subclass",
    "user's list loss",
    "kto",
    "bare",
    "own call",
    "of scores",
}
CASES = [(name, "embeddings") for name in EMBEDDINGS] + [(name, "scores") for name in SCORES]


def loss_of(name: str, kind: str) -> Any:
    return (EMBEDDINGS if kind == "embeddings" else SCORES)[name]


def whole_sample(name: str, kind: str) -> Sample:
    """One list is isolated, one query has a text that is none of its negatives, and one list has a weight."""
    sample = embedded_lists() if kind == "embeddings" else scored_lists()
    if "ties" in name:
        sample = replace(
            sample, labels=torch.tensor([[1, 3, 2, 0, 4], [2, 0, 1, 0, 0], [4, 1, 2, 3, 0], [3, 1, 0, 2, 0]])
        )
    weights = None if name == "user's matrix" else torch.tensor([1.0, 0.5, 1.0, 2.0])
    if kind == "scores" and (name in VARIANTS or name == "bare"):
        weights = None
    never = torch.tensor([[0, int(sample.document_hashes[2, 1])], [2, 10**9]])
    isolated = torch.tensor([False, False, False, True])
    return replace(sample, labels=sample.labels.float(), weights=weights, never_negatives=never, isolated=isolated)


def own_sample(whole: Sample, share: Share) -> Sample:
    """What a rank is given."""
    names = {name for name in (*PER_LIST, *PER_DOCUMENT, "isolated") if getattr(whole, name) is not None}
    parts = {}
    for name in names:
        value = getattr(whole, name)
        part = part_of_lists(value, share)
        parts[name] = with_whole(part, value) if name in OF_BATCH and not share.is_whole else part
    if share.rank >= len(whole.labels):  # no text, and so no value of the model: `make_loss_inputs`
        values = {name: getattr(whole, name) for name in ("scale", "bias")}
        parts |= {name: torch.zeros_like(value) for name, value in values.items() if value is not None}
    return replace(whole, share=share, **parts)


def evaluate(name: str, kind: str, share: Share) -> Result:
    loss, sample = loss_of(name, kind), own_sample(whole_sample(name, kind), share)
    return Whole(loss, kind).evaluate(loss.with_actions(sample) if name in VARIANTS else sample)


def evaluate_all(negatives: str = "global") -> list[Result | str]:
    tiles.ELEMENTS_PER_TILE, tiles.COLUMNS_PER_TILE = 8, 4
    tiles.BYTES_PER_BLOCK = 3 * 64 * 4 * world_size()  # three texts of each rank
    share = Sharing(negatives).of(ListBatch(0, [None] * 4))
    found: list[Result | str] = []
    for case in CASES:
        try:
            found.append(evaluate(*case, share))
        except Exception as error:
            found.append(repr(error))
    return found


@cache
def on_ranks(ranks: int) -> list[dict[tuple[str, str], Any]]:
    return [dict(zip(CASES, of_rank, strict=True)) for of_rank in run_ranks(evaluate_all, ranks, timeout_s=280)]


def joined(gradients: list[Tensor]) -> Tensor:
    """The gradients of all lists, of those of each rank."""
    return torch.stack(gradients, dim=1).flatten(0, 1)[:4]


@pytest.mark.parametrize("ranks", [3, 5])
@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}, {kind}" for name, kind in CASES])
def test_value_statistics_and_gradient_are_those_of_the_whole(name: str, kind: str, ranks: int):
    expected = evaluate(name, kind, ALONE)
    found = [of_rank[name, kind] for of_rank in on_ranks(ranks)]
    for one in found:
        assert not isinstance(one, str), one
        torch.testing.assert_close(one.value, expected.value, rtol=1e-5, atol=1e-6)
        assert one.statistics.keys() == expected.statistics.keys()
        for statistic, value in expected.statistics.items():
            torch.testing.assert_close(one.statistics[statistic], value, rtol=1e-5, atol=1e-6, msg=statistic)
    for field, gradient in expected.gradients.items():
        parts = [one.gradients[field] for one in found]
        together = sum(parts) if gradient.ndim == 0 else joined(parts)
        error = (together - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert error < 1e-5, field
        assert gradient.ndim == 0 or ranks < 5 or not parts[4].any(), "padding has no gradient"


def test_what_is_whole_is_told():
    for name, kind in CASES:
        assert is_sharded(loss_of(name, kind)) == (name not in WHOLE), name
    assert [type(each) for each in whole_losses(EMBEDDINGS["sum"])] == [Nearest]
    assert whole_losses(EMBEDDINGS["layers"]) == []


# The representations of one case only: with `negatives`, and the products of a rank.


def of_groups(negatives: str) -> tuple[Tensor, Tensor, float]:
    """The value of InfoNCE on 4 ranks, two of each node, the gradients of own documents, and how many documents a query
    is compared with."""
    os.environ["GROUP_RANK"] = str(rank() // 2)
    sharing = Sharing(negatives)
    sample = replace(embedded_lists(), labels=first_relevant())
    own = own_sample(sample, sharing.of(ListBatch(0, [None] * 4)))
    documents = own.documents.clone().requires_grad_()
    value, _ = compute_loss(InfoNCE(temperature=0.2), replace(own, documents=documents))
    return value.detach(), torch.autograd.grad(value, documents)[0], sharing.documents_per_query(sample.mask.sum(1))


def first_relevant() -> Tensor:
    return torch.tensor([[1.0, 0, 0, 0, 0]]).repeat(4, 1)


@pytest.mark.parametrize(("negatives", "groups"), [("node", [[0, 1], [2, 3]]), ("rank", [[0], [1], [2], [3]])])
def test_negatives_of_some_ranks(negatives: str, groups: list[list[int]]):
    """The mean over all queries, each compared with the lists of its group."""
    sample = replace(embedded_lists(), labels=first_relevant())
    documents = sample.documents.clone().requires_grad_()
    parts = [replace(sample, documents=documents).at(group) for group in groups]
    values = [len(part.mask) * compute_loss(InfoNCE(temperature=0.2), part)[0] for part in parts]
    expected = torch.stack(values).sum() / 4
    (gradient,) = torch.autograd.grad(expected, documents)
    found = run_ranks(of_groups, 4, negatives)
    for number, (value, own, count) in enumerate(found):
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(own[0], gradient[number], atol=1e-6, rtol=1e-5)
        sizes = sample.mask.sum(1)
        assert count == sum(len(group) * int(sizes[group].sum()) for group in groups) / 4
    everything = run_ranks(of_groups, 4, "global")[0]
    torch.testing.assert_close(everything[0], compute_loss(InfoNCE(temperature=0.2), sample)[0])
    assert everything[0] > expected + 0.1


def products(lists: int) -> dict[str, float]:
    """The products of the matrix products, forward and backward, of this rank."""
    share = Sharing().of(ListBatch(0, [None] * lists))
    draw = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(lists, 16, generator=draw), torch.randn(lists, 4, 16, generator=draw)
    labels = torch.tensor([[1.0, 0, 0, 0]]).repeat(lists, 1)
    found = {}
    both = InfoNCE(directions=("query_to_doc", "doc_to_query"), mask_duplicates=False)
    of_similarities = EmbeddingDistillation(target="similarities")
    for name, loss in {"both": both, "siglip": SigLIP(mask_duplicates=False), "distilled": of_similarities}.items():
        whole = {"queries": queries, "documents": documents, "labels": labels, "mask": labels >= 0}
        whole |= {"teacher_queries": queries, "teacher_documents": documents}
        own = {key: part_of_lists(value, share) for key, value in whole.items()}
        leaves = [own[key].clone().requires_grad_() for key in ("queries", "documents")]
        own |= dict(zip(("queries", "documents"), leaves, strict=True))
        with FlopCounterMode(display=False) as counter:
            value, _ = compute_loss(loss, Sample(share=share, **own))
            torch.autograd.grad(value, leaves)
        found[name] = counter.get_total_flops()
    return found


def test_each_of_four_ranks_computes_a_quarter_of_the_products():
    of_one = products(512)  # of several tiles: a single one is computed once only
    for of_rank in run_ranks(products, 4, 512):
        assert of_rank == {name: number / 4 for name, number in of_one.items()}
        assert all(of_rank.values())
