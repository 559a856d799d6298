"""The contracts: what a loss of each is called with, the mean over lists, and what losses inside losses ask for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from losses.contracts import (
    ListLoss,
    LossInputs,
    MatrixLoss,
    WrapperLoss,
    all_losses,
    compute_loss,
    input_names,
    mean_over_lists,
    requirements,
)

LABELS = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
MASK = torch.tensor([[True, True], [False, True]])
SCORED = LossInputs(labels=LABELS, mask=MASK, scores=torch.tensor([[3.0, 5.0], [torch.nan, 7.0]]))
QUERIES = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
DOCUMENTS = torch.tensor([[[4.0, 1.0], [1.0, 4.0]], [[torch.nan, 1.0], [1.0, 3.0]]])
EMBEDDED = LossInputs(labels=LABELS, mask=MASK, queries=QUERIES, documents=DOCUMENTS)


@dataclass(frozen=True)
class Relevant(ListLoss):
    """The score of each list's relevant document, times the teacher's where it reads one."""

    data_requirements = ("positive",)
    teacher: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("teacher_scores",) if self.teacher else ()

    def per_list(self, scores: Tensor, labels: Tensor, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        factor = inputs["teacher_scores"] if self.teacher else 1
        return (scores * factor).masked_fill(labels == 0, 0).sum(-1), (labels > 0).any(-1)


class Norms(MatrixLoss):
    inputs = ("query_hashes",)

    def __call__(self, queries, documents, labels, mask, *, weights=None, **inputs):
        return queries.sum() + inputs["query_hashes"].sum()


@dataclass(frozen=True)
class Twice(WrapperLoss):
    inner: tuple

    @property
    def losses(self) -> tuple:
        return self.inner

    def __call__(self, lists):
        value = sum(compute_loss(loss, lists)[0] for loss in self.losses)
        return 2 * value, {"once": value.detach()}


def test_list_losses_get_scores_or_scaled_similarities():
    assert compute_loss(Relevant(), SCORED) == (torch.tensor(5.0), {})  # (3 + 7) / 2
    assert compute_loss(Relevant(), EMBEDDED)[0] == (4 + 6) / 2
    scaled = LossInputs(labels=LABELS, mask=MASK, queries=QUERIES, documents=DOCUMENTS, scale=torch.tensor(10.0))
    assert compute_loss(Relevant(), scaled)[0] == 50


def test_padding_of_the_documents_does_not_reach_the_gradient_of_the_query():
    queries = QUERIES.clone().requires_grad_()
    lists = LossInputs(labels=LABELS, mask=MASK, queries=queries, documents=DOCUMENTS)
    (gradient,) = torch.autograd.grad(compute_loss(Relevant(), lists)[0], queries)
    torch.testing.assert_close(gradient, torch.tensor([[4.0, 1.0], [1.0, 3.0]]) / 2)


def test_what_a_loss_reads_is_given_or_named():
    with pytest.raises(ValueError, match=r"^loss Relevant needs teacher_scores, which this run does not have$"):
        compute_loss(Relevant(teacher=True), SCORED)
    taught = LossInputs(labels=LABELS, mask=MASK, scores=SCORED.scores, teacher_scores=torch.full((2, 2), 2.0))
    assert compute_loss(Relevant(teacher=True), taught)[0] == 10
    keyed = LossInputs(
        labels=LABELS, mask=MASK, queries=QUERIES, documents=DOCUMENTS, query_hashes=torch.tensor([3, 4])
    )
    assert compute_loss(Norms(), keyed)[0] == 3 + 7


def test_a_loss_that_returns_another_shape_is_named():
    class Whole(Relevant):
        def per_list(self, scores, labels, mask, **inputs):
            return scores.nan_to_num().mean()

    class Each(Norms):
        inputs = ()

        def __call__(self, queries, documents, labels, mask, *, weights=None, **inputs):
            return queries.sum(-1)

    with pytest.raises(ValueError, match=r"^loss Whole: per_list returns two tensors of the shape \[2\], the loss of"):
        compute_loss(Whole(), SCORED)
    with pytest.raises(ValueError, match=r"^loss Each returns a scalar tensor, found \[2\]$"):
        compute_loss(Each(), EMBEDDED)


def test_a_wrapper_gets_everything_and_needs_what_its_losses_need():
    both = Twice((Relevant(), Twice((Relevant(teacher=True), Norms()))))
    assert requirements(both) == {"positive"}
    assert input_names(both) == ("teacher_scores", "query_hashes")
    assert all_losses(both) == [both, both.inner[0], both.inner[1], *both.inner[1].inner]
    value, statistics = compute_loss(Twice((Relevant(), Relevant())), SCORED)
    assert (value, statistics) == (torch.tensor(20.0), {"once": torch.tensor(10.0)})


def test_a_loss_of_the_users_that_says_little_is_called_all_the_same():
    class Bare:
        contract = "list"

        def __call__(self, scores, labels, mask):
            return scores[mask].sum()

    assert compute_loss(Bare(), SCORED) == (torch.tensor(15.0), {})
    assert (input_names(Bare()), requirements(Bare())) == ((), {"comparison"})


def test_the_mean_is_over_the_lists_that_count_whatever_their_weights():
    values = torch.tensor([1.0, 100.0, 4.0], requires_grad=True)
    valid = torch.tensor([True, False, True])
    assert mean_over_lists(values, valid) == 2.5
    weighted = mean_over_lists(values, valid, torch.tensor([3.0, 1.0, 0.5]))
    assert weighted == (3 + 2) / 2
    assert torch.autograd.grad(weighted, values)[0].tolist() == [1.5, 0, 0.25]
    nothing = mean_over_lists(values, valid & False)
    assert nothing == 0
    assert (torch.autograd.grad(nothing, values)[0] == 0).all()
