"""InfoNCE against a slow loop of its definition, torch's cross-entropy and sentence-transformers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from info_nce_definition import by_definition
from loss_samples import PROJECTED
from torch import Tensor

from losses.info_nce import DIRECTIONS, InfoNCE
from losses.math import tiles

SIX = torch.arange(6)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


@pytest.fixture
def lists():
    """5 lists of up to 4: two positives, none, ragged hard negatives; texts that recur within and across lists."""
    mask = torch.arange(4) < torch.tensor([[4], [2], [3], [1], [4]])
    labels = torch.tensor([[1, 0, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]])
    query_hashes = torch.tensor([70, 71, 72, 70, 74])  # the first and the fourth query are one text
    document_hashes = torch.arange(20).reshape(5, 4)
    document_hashes[1, 1] = document_hashes[0, 0]  # a negative that is another list's positive
    document_hashes[4, 1] = document_hashes[1, 0]  # two lists share a positive
    document_hashes[4, 0] = document_hashes[3, 0]
    document_hashes[4, 3] = document_hashes[4, 2]  # a positive twice
    return {
        "queries": unit(5, 6),
        "documents": unit(5, 4, 6, seed=1),
        "labels": labels,
        "mask": mask,
        "query_hashes": query_hashes,
        "document_hashes": document_hashes,
        "guide_queries": unit(5, 3, seed=2) * 7,
        "guide_documents": unit(5, 4, 3, seed=3) / 5,
        "scale": torch.tensor(7.0, dtype=torch.float64),
    }


def evaluate(loss: InfoNCE, lists: dict[str, Tensor], **changes: Tensor) -> Tensor:
    lists = {**lists, **changes}
    inputs = {name: lists[name] for name in loss.inputs if name != "similarity"}
    inputs |= {name: lists[name] for name in loss.optional_inputs if name in lists}
    return loss(
        *(lists[name] for name in ("queries", "documents", "labels", "mask")), weights=lists.get("weights"), **inputs
    )


ALL = DIRECTIONS
OPTIONS = {
    "plain": {},
    "no duplicates' mask": {"mask_duplicates": False},
    "scale of the model": {"temperature": None},
    "positives in batch": {"in_batch": "positives"},
    "own list": {"in_batch": "none"},
    "decoupled": {"decoupled": True},
    "decoupled, own list": {"decoupled": True, "in_batch": "none"},
    "decoupled, all": {"decoupled": True, "directions": ALL},
    "doc_to_query": {"directions": ("doc_to_query",)},
    "query_to_query": {"directions": ("query_to_query",)},
    "symmetric": {"directions": ALL[:2], "partition_mode": "per_direction"},
    "gte": {"directions": ALL},
    "four softmaxes": {"directions": ALL, "partition_mode": "per_direction"},
    "four softmaxes, decoupled": {"directions": ALL, "partition_mode": "per_direction", "decoupled": True},
    "doc_to_doc, positives": {"directions": (ALL[0], ALL[3]), "in_batch": "positives"},
    "qwen3": {"directions": (ALL[0], *ALL[2:]), "margin": 0.1},
    "relative margin": {"directions": ALL, "margin": -0.05, "margin_strategy": "relative"},
    "decoupled, margin": {"directions": ALL, "margin": -0.4, "decoupled": True, "partition_mode": "per_direction"},
    "gist": {"directions": ALL, "guide_margin": 0.1},
    "gist, relative": {"directions": ALL[:1], "guide_margin": 0.3, "guide_margin_strategy": "relative"},
    "hard": {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
    "hard in batch": {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0},
    "hard, all": {"hardness_mode": "all_negatives", "hardness_strength": 2.0, "directions": ALL},
    "cosface": {"positive_margin": 0.3},
    "arcface": {"positive_margin": 0.3, "positive_margin_form": "arcface"},
}


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 3 pairs and 4 columns."""
    monkeypatch.setattr(tiles, "ELEMENTS_PER_TILE", 12)
    monkeypatch.setattr(tiles, "COLUMNS_PER_TILE", 4)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_definition_and_derivative(options, lists, monkeypatch):
    loss = InfoNCE(**{"temperature": 0.2, **options})
    lists["weights"] = torch.tensor([1.0, 2.0, 5.0, 0.5, 1.5], dtype=torch.float64)
    expected = by_definition(loss, lists)
    assert float(evaluate(loss, lists)) == pytest.approx(expected, abs=1e-9)
    small_tiles(monkeypatch)
    assert float(evaluate(loss, lists)) == pytest.approx(expected, abs=1e-9)
    names = ["queries", "documents", *(["scale"] if loss.temperature is None else [])]
    if loss.hardness_mode:
        return  # stop-gradient: the value is not the gradient's integral; see below
    inputs = [lists[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        lambda *values: evaluate(loss, lists, **dict(zip(names, values, strict=True))), inputs, **PROJECTED
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_texts_that_are_never_negatives(options, lists, monkeypatch):
    """An own negative, another list's positive and its negative, a text of equal queries, one that is not there."""
    loss = InfoNCE(**{"temperature": 0.2, **options})
    plain, keys = by_definition(loss, lists), lists["document_hashes"]
    pairs = [(0, keys[0, 1]), (1, keys[4, 2]), (4, keys[2, 1]), (3, keys[1, 0]), (0, -7), (2, keys[0, 2])]
    lists["never_negatives"] = torch.tensor([(i, int(key)) for i, key in pairs])
    expected = by_definition(loss, lists)
    assert float(evaluate(loss, lists)) == pytest.approx(expected, abs=1e-9)
    small_tiles(monkeypatch)
    assert float(evaluate(loss, lists)) == pytest.approx(expected, abs=1e-9)
    assert (expected != plain) == loss.mask_duplicates


def test_every_option_changes_the_loss(lists):
    values = {name: round(by_definition(InfoNCE(**{"temperature": 0.2, **o}), lists), 9) for name, o in OPTIONS.items()}
    assert len(set(values.values())) == len(OPTIONS), values


def test_equal_scores_are_log_n_and_one_positive_is_cross_entropy():
    labels, mask = F.one_hot(torch.zeros(6, dtype=torch.long), 3), torch.ones(6, 3, dtype=torch.bool)
    plain = InfoNCE(temperature=0.1, mask_duplicates=False)
    equal = plain(torch.ones(6, 4) / 2, torch.ones(6, 3, 4) / 2, labels, mask)
    assert equal.item() == pytest.approx(math.log(18), abs=1e-6)
    queries, documents = unit(6, 4), unit(6, 3, 4, seed=1)
    logits = queries @ documents.flatten(0, 1).T / 0.1
    torch.testing.assert_close(plain(queries, documents, labels, mask), F.cross_entropy(logits, 3 * SIX))


def test_hardness_has_no_gradient_of_its_own(lists):
    """With a fixed penalty c per negative, the gradient is that of softmax(s / T + c): the penalty is a constant."""
    queries = lists["queries"][:2].clone().requires_grad_()
    documents, labels = lists["documents"][:2, :2], torch.tensor([[1, 0], [1, 0]])
    loss = InfoNCE(temperature=0.2, mask_duplicates=False, hardness_mode="all_negatives", hardness_strength=4.0)
    (gradient,) = torch.autograd.grad(loss(queries, documents, labels, labels >= 0), queries)
    flat = documents.flatten(0, 1)
    similarities = queries @ flat.T
    negative = torch.tensor([[False, True, True, True], [True, True, False, True]])
    logits = similarities / 0.2 + 4.0 * similarities.detach() * negative
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 2])), queries)
    torch.testing.assert_close(gradient, expected)


def test_other_positives_of_a_query_get_no_gradient_from_a_pair(lists):
    documents = lists["documents"].clone().requires_grad_()
    loss = InfoNCE(temperature=0.2, mask_duplicates=False, in_batch="none")
    (gradient,) = torch.autograd.grad(evaluate(loss, lists, documents=documents), documents)
    assert (gradient[4, 1:] * lists["queries"][4]).sum(-1).lt(0).all()  # each positive is pulled, none pushed
    assert (gradient[4, 0] * lists["queries"][4]).sum() > 0


def test_padding_permutations_and_a_query_without_positive(lists):
    loss = InfoNCE(temperature=0.2, directions=ALL, margin=0.1)
    plain = evaluate(loss, lists)
    padded = {
        name: F.pad(lists[name], (0,) * (2 * lists[name].dim() - 4) + (0, 3), value=value)
        for name, value in {"documents": math.nan, "labels": 1, "mask": False, "document_hashes": 0}.items()
    }
    torch.testing.assert_close(evaluate(loss, lists, **padded), plain)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = {name: value[order] for name, value in lists.items() if value.dim()}
    torch.testing.assert_close(evaluate(loss, lists, **shuffled), plain)
    columns = torch.tensor([2, 0, 3, 1])
    names = ("documents", "labels", "mask", "document_hashes")
    torch.testing.assert_close(evaluate(loss, lists, **{name: lists[name][:, columns] for name in names}), plain)
    weights = torch.ones(5).double().index_fill(0, torch.tensor([2]), 100.0)
    torch.testing.assert_close(evaluate(loss, lists, weights=weights), plain)


@pytest.mark.parametrize(
    "situation", ["one query", "one document", "no positive", "masked", "no list", "1e4", "bf16", "equal"]
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_finite(options, situation, lists):
    loss = InfoNCE(**{"temperature": 0.01, **options})
    lists = {name: value.float() if value.is_floating_point() else value for name, value in lists.items()}
    if situation in ("one query", "no list"):
        lists = {name: value[: situation == "one query"] if value.dim() else value for name, value in lists.items()}
    elif situation == "one document":
        lists["mask"] = torch.arange(4).expand(5, 4) == 0
    elif situation == "no positive":
        lists["labels"] = lists["labels"] * 0
    elif situation == "masked":
        lists["mask"] = lists["mask"] & False
    elif situation == "1e4":
        lists |= {name: lists[name] * 1e4 for name in ("queries", "documents")}
    elif situation == "bf16":
        lists |= {name: lists[name].bfloat16() for name in ("queries", "documents")}
    else:
        lists |= {name: torch.full_like(lists[name], 0.4) for name in ("queries", "documents")}
    inputs = {name: lists[name].requires_grad_() for name in ("queries", "documents", "scale")}
    value = evaluate(loss, lists)
    gradients = torch.autograd.grad(value, [inputs[n] for n in inputs if n != "scale" or loss.temperature is None])
    assert value.isfinite()
    assert value.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients)
    if situation in ("no positive", "masked", "no list"):
        assert value == 0
        assert all((gradient == 0).all() for gradient in gradients)


def test_memory_grows_with_texts_not_with_their_square(monkeypatch):
    """No tensor saved for the backward is a [Q, D] matrix."""
    monkeypatch.setattr(tiles, "ELEMENTS_PER_TILE", 2**10)
    queries, documents = unit(128, 4).requires_grad_(), unit(128, 2, 4, seed=1)
    labels = torch.tensor([1, 0]).expand(128, 2)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        InfoNCE(mask_duplicates=False)(queries, documents, labels, labels >= 0).backward()
    assert max(saved) < 128 * 256 / 8


class Stub(torch.nn.Module):
    """A sentence-transformers model whose `features` are the embeddings."""

    tokenizer = None

    def forward(self, features):
        return dict(features)


def peer(loss_class: str, columns: list[Tensor], **options) -> Tensor:
    from sentence_transformers.sentence_transformer import losses

    loss = getattr(losses, loss_class)(Stub(), **options)
    return loss.compute_loss_from_embeddings(columns, None)


HARDNESS = {"hardness_mode": "all_negatives", "hardness_strength": 5.0}
PEER = {
    "plain": {},
    "symmetric": {"directions": ALL[:2], "partition_mode": "per_direction"},
    "gte": {"directions": ALL},
    "qwen3": {"directions": (ALL[0], *ALL[2:])},
    "joint symmetric": {"directions": ALL[:2]},
    "hard": {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
    "hard in batch": {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0, "directions": ALL},
    "all": HARDNESS,
}


@pytest.mark.parametrize("num_hard", [0, 1, 3])
@pytest.mark.parametrize("options", PEER.values(), ids=PEER)
def test_sentence_transformers_multiple_negatives_ranking(options, num_hard):
    queries, documents = unit(6, 8).requires_grad_(), unit(6, 1 + num_hard, 8, seed=1).requires_grad_()
    labels = torch.zeros(6, 1 + num_hard).index_fill(1, torch.tensor([0]), 1.0)
    ours = InfoNCE(temperature=0.05, mask_duplicates=False, **options)(queries, documents, labels, labels >= 0)
    columns = [queries, *documents.unbind(1)]
    theirs = peer("MultipleNegativesRankingLoss", columns, scale=20.0, **options)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    inputs = (queries, documents)
    pairs = zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True)
    for own, other in pairs:
        tangent = (
            [g - (g * d).sum(-1, keepdim=True) * d for g, d in ((own, queries), (other, queries))]
            if (own.shape == queries.shape)
            else [g - (g * documents).sum(-1, keepdim=True) * documents for g in (own, other)]
        )
        torch.testing.assert_close(*tangent, atol=1e-5, rtol=1e-5)


def test_sentence_transformers_symmetric():
    queries, documents = unit(6, 8), unit(6, 1, 8, seed=1)
    loss = InfoNCE(directions=ALL[:2], partition_mode="per_direction", mask_duplicates=False)
    ours = loss(queries, documents, torch.ones(6, 1), torch.ones(6, 1, dtype=torch.bool))
    theirs = peer("MultipleNegativesSymmetricRankingLoss", [queries, documents[:, 0]])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("num_hard", [0, 1])
@pytest.mark.parametrize("loss_class", ["GISTEmbedLoss", "CachedGISTEmbedLoss"])
def test_sentence_transformers_gist(loss_class, num_hard, margin, strategy):
    """Their doc_to_doc takes positives only: compared without hard negatives."""
    from sentence_transformers.sentence_transformer import losses

    queries, documents = unit(6, 8), unit(6, 1 + num_hard, 8, seed=1)
    guide_queries, guide_documents = unit(6, 4, seed=2), unit(6, 1 + num_hard, 4, seed=3)
    labels = torch.zeros(6, 1 + num_hard).index_fill(1, torch.tensor([0]), 1.0)
    ours = InfoNCE(
        temperature=0.05,
        directions=("query_to_doc", "query_to_query") + (() if num_hard else ("doc_to_doc",)),
        mask_duplicates=False,
        guide_margin=margin,
        guide_margin_strategy=strategy,
    )(queries, documents, labels, labels >= 0, guide_queries=guide_queries, guide_documents=guide_documents)
    theirs = object.__new__(getattr(losses, loss_class))
    torch.nn.Module.__init__(theirs)
    theirs.model, theirs.guide, theirs.must_retokenize = Stub(), Stub(), False
    theirs.similarity_fct = torch.nn.CosineSimilarity(dim=-1)
    theirs.cross_entropy_loss = torch.nn.CrossEntropyLoss()
    theirs.temperature, theirs.margin, theirs.margin_strategy = 0.05, margin, strategy
    theirs.contrast_anchors, theirs.contrast_positives = True, not num_hard
    theirs.gather_across_devices, theirs.mini_batch_size, theirs.show_progress_bar = False, 2, False
    columns = [queries, *documents.unbind(1)]
    guides = [guide_queries, *guide_documents.unbind(1)]
    if loss_class.startswith("Cached"):
        value = theirs.calculate_loss([list(c.split(2)) for c in columns], [list(g.split(2)) for g in guides])
    else:
        theirs.guide.forward = lambda features: {"sentence_embedding": features["guide"]}
        value = theirs(
            [{"sentence_embedding": c, "guide": g} for c, g in zip(columns, guides, strict=True)], torch.tensor([])
        )
    torch.testing.assert_close(ours, value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"directions": ("query_to_documents",)}, "'query_to_documents' is not known; choose one of: query_to_doc,"),
        ({"directions": ()}, "must be one or more of"),
        ({"directions": ("query_to_doc", "query_to_doc")}, "must be one or more of"),
        ({"partition_mode": "each"}, "joint, per_direction"),
        ({"in_batch": "no"}, "all, positives, none"),
        ({"in_batch": "none", "directions": ALL}, r"set directions=\[query_to_doc\]"),
        ({"margin": math.inf}, "margin must be a finite number"),
        ({"guide_margin_strategy": "rel"}, "absolute, relative"),
        ({"hardness_mode": "hard_negatives"}, "set both or neither"),
        ({"hardness_strength": 2.0}, "set both or neither"),
        ({**HARDNESS, "directions": ("doc_to_query",)}, "add it to directions"),
        ({"positive_margin": -1.0}, "positive_margin must be at least 0"),
        ({"positive_margin_form": "sphereface"}, "cosface, arcface"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        InfoNCE(**options)


def test_reads():
    assert InfoNCE().inputs == ("similarity", "query_hashes", "document_hashes")
    assert InfoNCE(temperature=None, mask_duplicates=False, guide_margin=0.0).inputs == (
        "similarity",
        "scale",
        "guide_queries",
        "guide_documents",
    )
