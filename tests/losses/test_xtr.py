"""XTR scores what a search of tokens would find, as sentence-transformers does, also in tiles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import losses.math.max_sim
import losses.xtr
from losses.info_nce import InfoNCE
from losses.inputs import LossInputs
from losses.kl_distillation import KLDistillation
from losses.math.similarity import MaxSim
from losses.matryoshka import Matryoshka
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.softmax_cross_entropy import SoftmaxCrossEntropy
from losses.xtr import XTR
from tensors.ragged import Ragged


def inputs(query_tokens: int = 4, document_tokens: int = 5) -> LossInputs:
    draw = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(2 * query_tokens, 6, generator=draw), dim=-1)
    documents = torch.nn.functional.normalize(torch.randn(4 * document_tokens, 6, generator=draw), dim=-1)
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    return LossInputs(
        labels=labels,
        mask=labels > -1,
        queries=Ragged(queries.requires_grad_(), torch.full((2,), query_tokens)),
        documents=Ragged(documents.requires_grad_(), torch.full((2, 2), document_tokens)),
        similarity=MaxSim(),
        query_hashes=torch.arange(2),
        document_hashes=torch.arange(4).view(2, 2),
        teacher_scores=torch.tensor([[0.3, 0.1], [0.9, -0.4]]),
    )


@pytest.mark.parametrize("top_k", [1, 3, 8, 20, 100])
@pytest.mark.parametrize("limit", [40, 2**20])
def test_scores_are_those_of_sentence_transformers(top_k: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = pytest.importorskip("sentence_transformers.multi_vector_encoder.scoring.xtr")
    monkeypatch.setattr(losses.xtr, "PRODUCTS_AT_ONCE", limit)
    monkeypatch.setitem(losses.math.max_sim.ELEMENTS_PER_TILE, "cpu", limit)
    given = inputs()
    shapes = given.queries.values.view(2, 4, 6), given.documents.values.view(2, 2, 5, 6)
    every = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 2, 5, dtype=torch.bool)
    expected = scoring.xtr_scores(*shapes, *every, top_k=top_k)
    for own, theirs in (
        (InfoNCE(temperature=1.0), torch.nn.functional.cross_entropy(expected, torch.tensor([0, 2]))),
        (
            SoftmaxCrossEntropy(),
            torch.nn.functional.cross_entropy(expected.view(2, 2, 2).diagonal().T, torch.tensor([0, 0])),
        ),
    ):
        loss, _ = XTR(own, top_k=top_k)(given)
        assert loss.item() == pytest.approx(theirs.item(), abs=1e-6)
        leaves = [given.queries.values, given.documents.values]
        found = torch.autograd.grad(loss, leaves)
        wanted = torch.autograd.grad(theirs, leaves, retain_graph=True)
        for mine, their in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, their, atol=1e-6, rtol=1e-5)


def test_everything_is_found_by_a_large_search() -> None:
    given = inputs()
    assert XTR(KLDistillation(), top_k=20)(given)[0].item() == pytest.approx(
        XTR(KLDistillation(), top_k=1000)(given)[0].item()
    )


def test_matryoshka_around_it_is_that_of_cut_vectors() -> None:
    given, xtr = inputs(), XTR(InfoNCE(temperature=1.0), top_k=3)
    both = Matryoshka(xtr, dims=(6, 4))(given)[0]
    cut = replace(given, **{name: MaxSim().comparable(getattr(given, name), 4) for name in ("queries", "documents")})
    assert both.item() == pytest.approx((xtr(given)[0] + xtr(cut)[0]).item(), abs=1e-6)


def test_options_and_models_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="top_k"):
        XTR(InfoNCE(), top_k=0)
    with pytest.raises(ValueError, match=r"XTR searches documents: set \[query_to_doc\]"):
        XTR(InfoNCE(directions=("query_to_doc", "doc_to_query")))
    with pytest.raises(ValueError, match="is not a loss of lists or embeddings"):
        XTR(PlackettLuceGRPO())
    with pytest.raises(ValueError, match=r"loss\.loss=Matryoshka: XTR goes inside it, as in loss=matryoshka loss@loss"):
        XTR(Matryoshka(InfoNCE()))
    dense = inputs(1, 1)
    with pytest.raises(ValueError, match="choose model=late_interaction"):
        XTR(InfoNCE())(LossInputs(**{**vars(dense), "queries": dense.queries.values}))
