"""Matryoshka and 2D Matryoshka against sentence-transformers and their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from losses.contracts import LossInputs, compute_loss, requirements
from losses.cosent import CoSENT
from losses.info_nce import InfoNCE
from losses.matryoshka import Matryoshka, Matryoshka2D, default_dims
from losses.softmax_cross_entropy import SoftmaxCrossEntropy

INNER = InfoNCE(temperature=0.2, mask_duplicates=False)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.fixture
def lists():
    labels = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
    return LossInputs(
        labels=labels,
        mask=torch.arange(3) < torch.tensor([[3], [2], [3], [1]]),
        queries=unit(4, 8),
        documents=unit(4, 3, 8, seed=1),
        query_layers=unit(4, 5, 8, seed=2),
        document_layers=unit(4, 3, 5, 8, seed=3),
        seed=7,
        step=3,
    )


def cut(lists, size):
    queries, documents = (F.normalize(rows[..., :size], dim=-1) for rows in (lists.queries, lists.documents))
    return replace(lists, queries=queries, documents=documents)


@pytest.mark.parametrize("inner", [INNER, CoSENT(), SoftmaxCrossEntropy(0.1)], ids=["matrix", "pairs", "list"])
def test_weighted_sum_over_dimensions(inner, lists):
    value, statistics = Matryoshka(inner, dims=(8, 4, 2), weights=(1.0, 0.5, 2.0))(lists)
    terms = {size: compute_loss(inner, cut(lists, size))[0] for size in (8, 4, 2)}
    torch.testing.assert_close(value, terms[8] + 0.5 * terms[4] + 2 * terms[2])
    assert set(statistics) == {"loss/dim_8", "loss/dim_4", "loss/dim_2"}
    for size, term in terms.items():
        torch.testing.assert_close(statistics[f"loss/dim_{size}"], term)


def test_dot_products_are_cut_as_they_are(lists):
    value, _ = Matryoshka(INNER, dims=(3,), normalize=False)(lists)
    plain = replace(lists, queries=lists.queries[..., :3], documents=lists.documents[..., :3])
    torch.testing.assert_close(value, compute_loss(INNER, plain)[0])


@pytest.mark.parametrize("weights", [None, (1.0, 0.3, 2.0)])
def test_sentence_transformers(weights):
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    class Stub(torch.nn.Module):
        def forward(self, features):
            return dict(features)

        def get_embedding_dimension(self):
            return 8

    queries, documents = unit(6, 8).requires_grad_(), unit(6, 1, 8, seed=1)
    ones = torch.ones(6, 1)
    ours = Matryoshka(InfoNCE(mask_duplicates=False), dims=(8, 4, 2), weights=weights)
    value, _ = ours(LossInputs(labels=ones, mask=ones > 0, queries=queries, documents=documents))
    stub = Stub()
    theirs = MatryoshkaLoss(stub, MultipleNegativesRankingLoss(stub), [8, 4, 2], weights)
    columns = [{"sentence_embedding": queries}, {"sentence_embedding": documents[:, 0]}]
    torch.testing.assert_close(value, theirs(columns, torch.tensor([])), atol=1e-5, rtol=1e-5)


def test_dimensions_are_drawn_by_seed_and_step_alone(lists):
    loss = Matryoshka(INNER, dims=(8, 4, 2), n_dims_per_step=2)
    state = torch.random.get_rng_state()
    drawn = {step: tuple(loss(replace(lists, step=step))[1]) for step in range(40)}
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {len(names) for names in drawn.values()} == {2}
    assert len(set(drawn.values())) == 3
    shorter = replace(cut(lists, 8), labels=lists.labels[:2], mask=lists.mask[:2], queries=lists.queries[:2])
    for step, names in drawn.items():
        assert tuple(loss(replace(shorter, documents=lists.documents[:2], step=step))[1]) == names
    other_seed = {step: tuple(loss(replace(lists, seed=8, step=step))[1]) for step in range(40)}
    assert other_seed != drawn


def by_formula(loss, lists, layers):
    """2D Matryoshka of these layers, text by text."""
    last = compute_loss(loss.loss, lists)[0]
    texts = [(lists.queries[i], lists.query_layers[i]) for i in range(4) if lists.mask[i].any()]
    texts += [(lists.documents[i, j], lists.document_layers[i, j]) for i, j in lists.mask.nonzero().tolist()]
    total = loss.last_layer_weight * last
    for layer in layers:
        earlier = replace(lists, queries=lists.query_layers[:, layer], documents=lists.document_layers[:, :, layer])
        weight = 1 / (1 + math.log(1 + layer)) if loss.layer_weighting == "log" else 1.0
        divergence = 0.0
        for final, before in texts:
            p = (final / loss.kl_temperature).softmax(-1)
            q = (before[layer] / loss.kl_temperature).softmax(-1)
            divergence = divergence + (p * (p / q).log()).sum() / len(texts)
        term = loss.prior_layers_weight * weight * compute_loss(loss.loss, earlier)[0]
        total = total + (term + loss.kl_div_weight * loss.kl_temperature * divergence) / len(layers)
    return total


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"last_layer_weight": 0.5, "prior_layers_weight": 2.0, "kl_div_weight": 3.0, "kl_temperature": 0.7},
        {"layer_weighting": "log", "kl_div_weight": 0.0},
    ],
)
def test_2d_is_its_formula(options, lists):
    loss = Matryoshka2D(Matryoshka(INNER, dims=(8, 4)), n_layers_per_step=None, **options)
    value, statistics = loss(lists)
    torch.testing.assert_close(value, by_formula(loss, lists, range(5)))
    assert set(statistics) >= {"loss/last_layer", "loss/prior_layers", "kl", "last_layer/loss/dim_8"}


def test_2d_draws_layers(lists):
    loss = Matryoshka2D(INNER)
    candidates = [by_formula(loss, lists, [layer]) for layer in range(5)]
    drawn = set()
    for step in range(40):
        value, _ = loss(replace(lists, step=step))
        (layer,) = [i for i, candidate in enumerate(candidates) if torch.isclose(candidate, value)]
        drawn.add(layer)
    assert drawn == set(range(5))


def test_2d_last_layer_is_a_constant_of_the_divergence(lists):
    loss = Matryoshka2D(INNER, last_layer_weight=0.0, prior_layers_weight=0.0)
    moving = replace(lists, queries=lists.queries.requires_grad_(), query_layers=lists.query_layers.requires_grad_())
    value, _ = loss(moving)
    final, earlier = torch.autograd.grad(value, [moving.queries, moving.query_layers])
    assert value > 0
    assert not final.any()
    assert earlier.any()


def test_2d_at_equal_layers_diverges_not_and_weights_scale_texts(lists):
    same = replace(
        lists,
        query_layers=lists.queries[:, None].expand(4, 5, 8),
        document_layers=lists.documents[:, :, None].expand(4, 3, 5, 8),
    )
    assert Matryoshka2D(INNER)(same)[1]["kl"] == pytest.approx(0.0, abs=1e-12)
    halves = replace(lists, weights=torch.full((4,), 0.5).double())
    plain, half = (Matryoshka2D(INNER)(one)[0] for one in (lists, halves))
    torch.testing.assert_close(half, plain / 2)


@pytest.mark.parametrize("loss", [Matryoshka(INNER, dims=(8, 3)), Matryoshka2D(INNER)], ids=["1d", "2d"])
def test_padding_has_no_gradient_and_nothing_relevant_no_loss(loss, lists):
    padding = ~lists.mask
    documents = lists.documents.masked_fill(padding[..., None], math.nan).requires_grad_()
    layers = lists.document_layers.masked_fill(padding[..., None, None], math.nan)
    value, _ = loss(replace(lists, documents=documents, document_layers=layers))
    torch.testing.assert_close(value, loss(lists)[0])
    (gradient,) = torch.autograd.grad(value, documents)
    assert gradient.isfinite().all()
    assert not gradient[padding].any()
    nothing = replace(lists, mask=lists.mask & False, queries=lists.queries.requires_grad_())
    value, _ = loss(nothing)
    assert value == 0
    assert not torch.autograd.grad(value, nothing.queries)[0].any()


def test_it_needs_what_its_loss_needs():
    assert Matryoshka(CoSENT(temperature=None)).inputs == ("similarity", "scale")
    assert requirements(Matryoshka(CoSENT())) == {"levels"}
    assert Matryoshka2D(Matryoshka(CoSENT())).inputs == ("similarity", "query_layers", "document_layers")
    assert [default_dims(dim) for dim in (16, 32, 64, 384)] == [
        (16,),
        (32,),
        (32, 64),
        (32, 64, 128, 256, 384),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": (8, 8)}, "different integers above 0"),
        ({"dims": (8, 0)}, "different integers above 0"),
        ({"dims": ()}, "different integers above 0"),
        ({"weights": (1.0,)}, "must have one value for each of dims"),
        ({"dims": (8, 4), "weights": (1.0,)}, "must have one value for each of dims"),
        ({"dims": (8,), "weights": (math.nan,)}, "finite"),
        ({"n_dims_per_step": 0}, "n_dims_per_step must be at least 1"),
        ({"loss": 3}, "is not a loss"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        Matryoshka(**{"loss": INNER, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers_per_step": 0}, "n_layers_per_step must be at least 1"),
        ({"kl_temperature": 0.0}, "kl_temperature must be above 0"),
        ({"kl_div_weight": -1.0}, "kl_div_weight must be at least 0"),
        ({"layer_weighting": "linear"}, "uniform, log"),
    ],
)
def test_options_2d(options, message):
    with pytest.raises(ValueError, match=message):
        Matryoshka2D(INNER, **options)


def test_what_the_model_does_not_give(lists):
    with pytest.raises(ValueError, match=r"loss.dims=\[16, 8\]: the embeddings have only 8 dimensions"):
        Matryoshka(INNER, dims=(16, 8))(lists)
    with pytest.raises(ValueError, match="model=bi_encoder"):
        Matryoshka(SoftmaxCrossEntropy())(replace(lists, queries=None, documents=None, scores=lists.labels))
    with pytest.raises(ValueError, match="needs query_layers, document_layers"):
        Matryoshka2D(INNER)(replace(lists, query_layers=None))
    with pytest.raises(ValueError, match="this model has only one"):
        Matryoshka2D(INNER)(replace(lists, query_layers=lists.query_layers[:, :0]))
