"""Values and gradients against sentence-transformers' losses of the same name, which are fed given logits.

Its labels come sorted (its ListMLE and p-ListMLE are told to sort them all the same), and one list at a time: its
LambdaLoss and RankNet average over the pairs of a whole batch.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from losses.lambda_loss import LambdaLoss
from losses.list_mle import list_mle
from losses.list_net import ListNet
from losses.rank_net import RankNet

SIZES = (8, 5, 2)


class GivenLogits:
    """Stands in for a CrossEncoder: document "i" has logit i."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def preprocess(self, pairs: list[tuple[str, str]], **options: None) -> dict[str, Tensor]:
        return {"documents": torch.tensor([int(document) for _, document in pairs])}

    def __call__(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": self.logits[tokens["documents"]]}


@pytest.fixture(scope="module")
def theirs() -> SimpleNamespace:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.cross_encoder.losses import lambda_loss, list_mle, list_net, plist_mle, rank_net

    return SimpleNamespace(
        **{name: getattr(lambda_loss, name) for name in dir(lambda_loss) if name.endswith("Scheme")},
        LambdaLoss=lambda_loss.LambdaLoss,
        ListMLELoss=list_mle.ListMLELoss,
        PListMLELoss=plist_mle.PListMLELoss,
        ListNetLoss=list_net.ListNetLoss,
        RankNetLoss=rank_net.RankNetLoss,
    )


def ragged(seed: int, *, ties: bool) -> tuple[Tensor, Tensor, Tensor]:
    """scores, labels, mask [3, 8]: lists of 8, 5 and 2 documents."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(3, 8, generator=generator)
    labels = torch.stack([torch.randperm(8, generator=generator) for _ in range(3)]).float()
    if ties:
        labels = torch.cat([torch.tensor([[2.0, 0.0]]).expand(3, 2), (labels[:, 2:] % 3)], dim=1)
    return scores.requires_grad_(), labels, torch.arange(8) < torch.tensor(SIZES)[:, None]


def with_gradient(value: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    return value, torch.autograd.grad(value, scores)[0]


def call(loss, labels: Tensor, rows: list[int]) -> Tensor:
    """Their loss of some of the lists, whose logits are numbered over the padded lists."""
    documents = [[str(8 * row + column) for column in range(SIZES[row])] for row in rows]
    return loss([["query"] * len(rows), documents], [labels[row, : SIZES[row]] for row in rows])


def test_list_net(theirs):
    scores, labels, mask = ragged(0, ties=True)
    expected = call(theirs.ListNetLoss(GivenLogits(scores.view(-1))), labels, [0, 1, 2])
    ours = with_gradient(ListNet()(scores, labels, mask), scores)
    torch.testing.assert_close(ours, with_gradient(expected, scores))


@pytest.mark.parametrize("position_weights", ["uniform", "exponential"])
def test_list_mle(position_weights, theirs):
    scores, labels, mask = ragged(1, ties=False)
    kind = theirs.ListMLELoss if position_weights == "uniform" else theirs.PListMLELoss
    expected = call(kind(GivenLogits(scores.view(-1)), respect_input_order=False), labels, [0, 1, 2])
    ties = torch.zeros(3, 1, 8, dtype=torch.int64)
    values, valid = list_mle(scores, labels, mask, tie_breaks=ties, position_weights=position_weights)
    assert valid.all()
    torch.testing.assert_close(with_gradient(values.mean(), scores), with_gradient(expected, scores))


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_rank_net(sigma, row, theirs):
    scores, labels, mask = ragged(2, ties=True)
    loss = theirs.RankNetLoss(GivenLogits(scores.view(-1)), sigma=sigma, reduction_log="natural")
    ours = with_gradient(RankNet(sigma)(scores[row], labels[row], mask[row]), scores)
    torch.testing.assert_close(ours, with_gradient(call(loss, labels, [row]), scores))


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("lambda_rank", "LambdaRankScheme"),
        ("ndcg_loss1", "NDCGLoss1Scheme"),
        ("ndcg_loss2", "NDCGLoss2Scheme"),
        ("ndcg_loss2pp", "NDCGLoss2PPScheme"),
    ],
)
def test_lambda_loss(scheme, name, k, row, theirs):
    scores, labels, mask = ragged(3 + row, ties=True)
    weighting = getattr(theirs, name)()
    options = {"sigma": 1.5, "reduction_log": "natural"}
    # k is at most the list's length there
    expected = call(
        theirs.LambdaLoss(GivenLogits(scores.view(-1)), weighting, k=k and min(k, SIZES[row]), **options), labels, [row]
    )
    ours = LambdaLoss(scheme, sigma=1.5, k=k, reduction="mean")(scores[row], labels[row], mask[row])
    torch.testing.assert_close(with_gradient(ours, scores), with_gradient(expected, scores))
