"""Embedding distillation against torch and sentence-transformers, in value and gradient; on 1, 2 and 4 ranks:
test_split.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import losses.math.tiles
from losses.contracts import LossInputs, compute_loss
from losses.embedding_distillation import EmbeddingDistillation
from losses.matryoshka import Matryoshka

MASK = torch.arange(3) < torch.tensor([[3], [1], [2], [0]])


def vectors(seed: int, *shape: int, grad: bool = False):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


@pytest.fixture
def inputs() -> LossInputs:
    """Four lists of 3, 1, 2 and 0 documents; the student has 5 dimensions, the teacher 8."""
    return LossInputs(
        labels=torch.full((4, 3), torch.nan),
        mask=MASK,
        queries=vectors(0, 4, 5, grad=True),
        documents=vectors(1, 4, 3, 5, grad=True),
        teacher_queries=vectors(2, 4, 8),
        teacher_documents=vectors(3, 4, 3, 8),
    )


def project(inputs: LossInputs, weight: torch.Tensor) -> LossInputs:
    from dataclasses import replace

    return replace(inputs, projected_queries=inputs.queries @ weight.T, projected_documents=inputs.documents @ weight.T)


def assert_same(value, expected, *leaves):
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (value, expected))
    torch.testing.assert_close(ours, theirs)
    assert all(gradient.abs().max() > 0.01 for gradient in ours)


def by_hand(inputs: LossInputs, distance, roles=("query", "document")):
    """The mean over the texts of each list, then over the lists with a document."""
    total = torch.zeros(())
    for row in range(3):
        own = inputs.mask[row]
        ours, theirs = [], []
        if "query" in roles:
            ours.append(inputs.projected_queries[row : row + 1])
            theirs.append(inputs.teacher_queries[row : row + 1])
        if "document" in roles:
            ours.append(inputs.projected_documents[row][own])
            theirs.append(inputs.teacher_documents[row][own])
        total = total + distance(torch.cat(ours), torch.cat(theirs)).mean() / 3
    return total


DISTANCES = {
    "cosine": lambda ours, theirs: 1 - F.cosine_similarity(ours, theirs),
    "squared": lambda ours, theirs: F.mse_loss(ours, theirs, reduction="none").sum(-1),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("roles", [("query", "document"), ("query",), ("document",)])
def test_torch_with_a_projection(inputs, distance, roles):
    weight = vectors(4, 8, 5, grad=True)
    projected = project(inputs, weight)
    loss = EmbeddingDistillation(distance=distance, roles=roles)
    leaves = [
        weight,
        *([inputs.queries] if "query" in roles else []),
        *([inputs.documents] if "document" in roles else []),
    ]
    assert_same(compute_loss(loss, projected)[0], by_hand(projected, DISTANCES[distance], roles), *leaves)


@pytest.mark.parametrize(("distance", "metric", "factor"), [("cosine", "cosine", 1), ("squared", "mse", 8)])
def test_sentence_transformers(distance, metric, factor):
    """A query and a document each; its projection has a bias (0 here), and its mse is a mean."""
    losses_of = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    student, teacher = vectors(5, 6, 2, 5, grad=True), vectors(6, 6, 2, 8)
    model = torch.nn.Module()
    model.get_embedding_dimension = model.get_sentence_embedding_dimension = lambda: 5
    model.device, model.dtype = torch.device("cpu"), torch.float32
    theirs = losses_of.EmbedDistillLoss(model, distance_metric=metric, projection_dim=8)
    [linear] = [module for module in theirs.modules() if isinstance(module, torch.nn.Linear)]
    if linear.bias is not None:
        torch.nn.init.zeros_(linear.bias)
    expected = factor * theirs.compute_loss_from_embeddings(list(student.unbind(1)), list(teacher.unbind(1)))
    ours = EmbeddingDistillation(distance=distance)(
        student[:, 0],
        student[:, 1:],
        torch.ones(6, 1),
        torch.ones(6, 1, dtype=torch.bool),
        teacher_queries=teacher[:, 0],
        teacher_documents=teacher[:, 1:],
        projected_queries=linear(student[:, 0]),
        projected_documents=linear(student[:, 1:]),
    )
    assert_same(ours, expected, student, linear.weight)


def test_rows_of_similarities(inputs, monkeypatch):
    """Torch's cosine of each query's row; blocks of one row give the same."""
    loss = EmbeddingDistillation(target="similarities")
    student = inputs.queries @ inputs.documents[MASK].T
    teacher = inputs.teacher_queries @ inputs.teacher_documents[MASK].T
    expected = (1 - F.cosine_similarity(student, teacher))[:3].mean()
    assert_same(compute_loss(loss, inputs)[0], expected, inputs.queries, inputs.documents)
    monkeypatch.setattr(losses.math.tiles, "ELEMENTS_PER_TILE", 1)
    assert_same(compute_loss(loss, inputs)[0], expected, inputs.queries, inputs.documents)


def test_zero_at_the_teacher():
    queries, documents = vectors(7, 2, 4, grad=True), vectors(8, 2, 3, 4, grad=True)
    common = {"teacher_queries": 2 * queries.detach(), "teacher_documents": 2 * documents.detach()}
    for target in ("embeddings", "similarities"):
        value = EmbeddingDistillation(target=target)(queries, documents, MASK[:2], MASK[:2] | True, **common)
        assert abs(value) < 1e-6
        assert torch.autograd.grad(value, documents)[0].abs().max() < 1e-6


def test_other_dimensions_need_a_projection(inputs):
    with pytest.raises(
        ValueError, match=r"5 dimensions with the teacher's of 8: set model.teacher_projection=8, or loss"
    ):
        compute_loss(EmbeddingDistillation(), inputs)


def test_inside_matryoshka_similarities_alone_have_a_meaning(inputs):
    with pytest.raises(ValueError, match=r"whole embeddings, .* loss.loss.target=similarities"):
        Matryoshka(EmbeddingDistillation())
    value, _ = compute_loss(Matryoshka(EmbeddingDistillation(target="similarities"), dims=(5, 2)), inputs)
    assert value > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "scores"}, "target='scores' is not known; choose one of: embeddings, similarities"),
        ({"distance": "l1"}, "distance='l1' is not known; choose one of: cosine, squared"),
        ({"roles": ()}, r"roles=\[\] must be one or more of: query, document"),
        ({"roles": ("text",)}, "roles='text' is not known"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingDistillation(**options)
