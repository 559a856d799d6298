"""Quantisation-aware training against its formula, torch's fake quantisation and sentence-transformers' codes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.util.quantization import quantize_embeddings

from losses.contracts import LossInputs, compute_loss, required_outputs, requirements
from losses.cosent import CoSENT
from losses.info_nce import InfoNCE
from losses.matryoshka import Matryoshka, Matryoshka2D
from losses.quantization_aware import QuantizationAware, int8_dimensions
from losses.softmax_cross_entropy import SoftmaxCrossEntropy
from losses.weighted_sum import Term, WeightedSum

INNER = InfoNCE(temperature=0.2, mask_duplicates=False)
DIM = 8


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def lists():
    return LossInputs(
        labels=torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]]),
        mask=torch.arange(3) < torch.tensor([[3], [2], [3], [1]]),
        queries=unit(4, DIM),
        documents=unit(4, 3, DIM, seed=1),
        query_layers=unit(4, 2, DIM, seed=2),
        document_layers=unit(4, 3, 2, DIM, seed=3),
        int8_ranges={DIM: torch.stack([torch.full((DIM,), -0.9), torch.linspace(0.7, 0.9, DIM)])},
        seed=7,
        step=3,
    )


def stored(lists, precision, documents=None, dim=DIM):
    """Documents as sentence-transformers stores and reads them, with signs of length 1."""
    documents = lists.documents if documents is None else documents
    rows = documents.detach().flatten(0, 1).numpy()
    if precision == "binary":
        bits = np.unpackbits(quantize_embeddings(rows, "ubinary"), axis=-1, count=dim)
        return torch.from_numpy((bits * 2.0 - 1) / math.sqrt(dim)).float().view(documents.shape)
    ranges = lists.int8_ranges[dim].numpy()
    codes = quantize_embeddings(rows, "int8", ranges=ranges).astype(np.float64) + 128
    values = codes * ((ranges[1] - ranges[0]) / 255) + ranges[0]
    return torch.from_numpy(values).float().view(documents.shape)


def value_and_gradients(loss, lists):
    moving = replace(
        lists,
        queries=lists.queries.detach().clone().requires_grad_(),
        documents=lists.documents.detach().clone().requires_grad_(),
    )
    value, statistics = compute_loss(loss, moving)
    return value.detach(), torch.autograd.grad(value, [moving.queries, moving.documents]), statistics


@pytest.mark.parametrize("inner", [INNER, CoSENT(), SoftmaxCrossEntropy(0.1)], ids=["matrix", "pairs", "list"])
def test_value_and_gradient_are_those_at_the_stored_documents(inner, lists):
    """The straight-through gradient for e is the gradient of the loss for Q(e), at Q(e)."""
    weights = {"fp32": 1.0, "int8": 0.5, "binary": 2.0}
    loss = QuantizationAware(inner, tuple(weights), tuple(weights.values()))
    value, gradients, statistics = value_and_gradients(loss, lists)
    expected, of_queries, of_documents = 0.0, 0.0, 0.0
    for precision, weight in weights.items():
        documents = lists.documents if precision == "fp32" else stored(lists, precision)
        term, (query_part, document_part), _ = value_and_gradients(inner, replace(lists, documents=documents))
        torch.testing.assert_close(statistics[f"loss/{precision}"], term)
        expected += weight * term
        of_queries, of_documents = of_queries + weight * query_part, of_documents + weight * document_part
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, (of_queries, of_documents))
    assert (gradients[1][~lists.mask] == 0).all()


def test_the_gradient_is_that_of_torchs_fake_quantisation(lists):
    """torch rounds where the codes of stored vectors are rounded down: the same shifted by half a step."""
    step = 1.8 / 255
    lists = replace(lists, int8_ranges={DIM: torch.tensor([[-0.9] * DIM, [0.9] * DIM])})
    value, gradients, _ = value_and_gradients(QuantizationAware(INNER, ("int8",)), lists)
    documents = lists.documents.clone().requires_grad_()
    codes = torch.fake_quantize_per_tensor_affine(documents + 0.9 - step / 2, step, 0, 0, 255) - 0.9
    oracle, _ = compute_loss(INNER, replace(lists, documents=codes))
    torch.testing.assert_close(value, oracle.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[1], torch.autograd.grad(oracle, documents)[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_queries_are_quantised_if_asked(precision, lists):
    value, _, _ = value_and_gradients(QuantizationAware(INNER, (precision,), quantize_queries=True), lists)
    queries = stored(lists, precision, lists.queries[:, None])[:, 0]
    expected = compute_loss(INNER, replace(lists, queries=queries, documents=stored(lists, precision)))[0]
    torch.testing.assert_close(value, expected)


def test_signs_have_the_mean_length_of_the_documents(lists):
    """So that dot products keep their size; padding is no document."""
    longer = replace(lists, documents=(lists.documents * 7).masked_fill(~lists.mask[..., None], math.nan))
    value, gradients, _ = value_and_gradients(QuantizationAware(INNER, ("binary",)), longer)
    expected = compute_loss(INNER, replace(lists, documents=7 * stored(lists, "binary")))[0]
    torch.testing.assert_close(value, expected)
    assert gradients[1].isfinite().all()


def test_without_ranges_they_are_those_of_the_documents_of_the_step(lists):
    rows = lists.documents[lists.mask]
    own = {DIM: torch.stack([rows.amin(0), rows.amax(0)])}
    loss = QuantizationAware(INNER, ("int8",))
    expected = loss(replace(lists, int8_ranges=own))[0]
    junk = lists.documents.masked_fill(~lists.mask[..., None], 99.0)
    assert loss(replace(lists, documents=junk, int8_ranges=None))[0] == expected
    assert loss(replace(lists, int8_ranges={4: torch.zeros(2, 4)}))[0] == expected
    assert loss(lists)[0] != expected
    nothing = replace(lists, mask=lists.mask & False, int8_ranges=None)
    assert loss(nothing)[0] == 0


def test_a_text_that_is_never_a_negative_is_none_in_any_precision(lists):
    lists = replace(
        lists,
        query_hashes=torch.arange(4),
        document_hashes=torch.arange(10, 22).view(4, 3),
        never_negatives=torch.tensor([[0, 13]]),
    )
    for precision in ("int8", "binary"):
        loss = QuantizationAware(InfoNCE(temperature=0.2), (precision,))
        masked, plain = (value_and_gradients(loss, one)[0] for one in (lists, replace(lists, never_negatives=None)))
        assert masked < plain


def test_inside_matryoshka_cut_vectors_are_quantised_in_their_own_ranges(lists):
    """As `encode.dim` does: cut, unit length, quantise."""
    ranges = {DIM: lists.int8_ranges[DIM], 4: torch.tensor([[-1.0] * 4, [0.95] * 4])}
    lists = replace(lists, int8_ranges=ranges)
    inner = QuantizationAware(INNER, ("int8", "binary"))
    value, statistics = Matryoshka(inner, dims=(DIM, 4))(lists)
    expected = 0.0
    for dim in (DIM, 4):
        cut = replace(
            lists,
            queries=F.normalize(lists.queries[..., :dim], dim=-1),
            documents=F.normalize(lists.documents[..., :dim], dim=-1),
        )
        for precision in ("int8", "binary"):
            documents = stored(lists, precision, cut.documents, dim)
            term = compute_loss(INNER, replace(cut, documents=documents))[0]
            torch.testing.assert_close(statistics[f"dim_{dim}/loss/{precision}"], term)
            expected += term
    torch.testing.assert_close(value, expected)


def test_2d_matryoshka_takes_the_ranges_of_the_last_layer_for_no_other(lists):
    loss = Matryoshka2D(QuantizationAware(INNER, ("int8",)), n_layers_per_step=None, kl_div_weight=0.0)
    found = loss(lists)[1]["loss/prior_layers"]
    layers = [
        replace(lists, queries=lists.query_layers[:, i], documents=lists.document_layers[:, :, i], int8_ranges=None)
        for i in range(2)
    ]
    expected = torch.stack([compute_loss(loss.loss, one)[0] for one in layers]).mean()
    torch.testing.assert_close(found, expected)


def test_the_dimensions_that_are_quantised_to_int8():
    aware = QuantizationAware(INNER)
    assert int8_dimensions(aware, 64) == (64,)
    assert int8_dimensions(QuantizationAware(INNER, ("fp32", "binary")), 64) == ()
    assert int8_dimensions(INNER, 64) == int8_dimensions(Matryoshka(INNER), 64) == ()
    assert int8_dimensions(Matryoshka(aware), 64) == (32, 64)
    assert int8_dimensions(Matryoshka2D(Matryoshka(aware, dims=(48, 16))), 64) == (48, 16)
    both = WeightedSum({"a": Term(Matryoshka(aware, dims=(64, 8))), "b": Term(aware), "c": Term(INNER)})
    assert int8_dimensions(both, 64) == (64, 8)


def test_it_needs_what_its_loss_needs_and_embeddings():
    loss = QuantizationAware(CoSENT(temperature=None))
    assert loss.inputs == ("similarity", "scale", "int8_ranges")
    assert "int8_ranges" in Matryoshka(loss).inputs
    assert QuantizationAware(CoSENT(), ("binary",)).inputs == ("similarity",)
    assert requirements(loss) == {"levels"}
    assert required_outputs(QuantizationAware(SoftmaxCrossEntropy())) == {"embedding"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": ()}, "must be different ones of fp32, int8, binary"),
        ({"precisions": ("int8", "int8")}, "must be different ones of fp32, int8, binary"),
        ({"precisions": ("int4",)}, "'int4' is not known; choose one of: fp32, int8, binary"),
        ({"weights": (1.0,)}, "must have one value for each of precisions"),
        ({"precisions": ("int8",), "weights": (math.inf,)}, "finite"),
        ({"loss": 3}, "is not a loss"),
        ({"loss": Matryoshka(INNER)}, "cut first and then quantised, once: loss=matryoshka loss@loss.loss="),
        ({"loss": WeightedSum({"a": Term(Matryoshka(INNER))})}, "cut first and then quantised"),
        ({"loss": QuantizationAware(INNER)}, "once"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        QuantizationAware(**{"loss": INNER, **options})


def test_a_model_without_embeddings(lists):
    with pytest.raises(ValueError, match="model=bi_encoder"):
        QuantizationAware(SoftmaxCrossEntropy())(replace(lists, queries=None, documents=None, scores=lists.labels))
