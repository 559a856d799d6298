"""XTR: training of token vectors for a search that fetches tokens, and then scores what it has found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from losses.contracts import WrapperLoss, all_losses, compute_loss, is_policy
from losses.inputs import LossInputs, Statistics
from losses.math.checks import check_at_least
from losses.math.in_batch import InBatch
from losses.math.similarity import RetrievedMaxSim
from tensors.ragged import Ragged

PRODUCTS_AT_ONCE = 2**20


@dataclass(frozen=True)
class XTR(WrapperLoss):
    """L of S(q, d) = (sum_i a_i max_j q_i . d_j) / (sum_i a_i)  (Lee et al. 2023, arXiv 2304.01982, eq. 5).

    L is the loss inside. S is 0 without an a_i = 1. a_i is 1 if the maximum is among the `top_k` largest products of
    q_i with the tokens of all documents of the global step: so a token learns to be found. The paper's `top_k` is 32 to
    512 for steps of some thousand tokens. Products that are equal to the last of them count too.

    Use: late interaction whose search scores only the tokens that it has fetched (XTR, WARP).
    Cost: that of the loss inside, and once more the products of all tokens.
    Source: Lee et al. 2023, arXiv 2304.01982; sentence-transformers `XTRScores`.

    Raises:
        ValueError: options without a meaning; a model that gives no vectors of tokens.
    """

    compares_embeddings: ClassVar[bool] = True
    reads_token_vectors: ClassVar[bool] = True
    sharded: ClassVar[bool] = True

    loss: Any
    top_k: int = 256

    def __post_init__(self) -> None:
        check_at_least("top_k", self.top_k, 1)
        if not hasattr(self.loss, "contract") or is_policy(self.loss):
            raise ValueError(f"loss={type(self.loss).__name__} is not a loss of lists or embeddings")
        if self.loss.contract == "wrapper":
            name = type(self.loss).__name__
            raise ValueError(f"loss.loss={name}: XTR goes inside it, as in loss=matryoshka loss@loss.loss=xtr")
        if (directions := set(getattr(self.loss, "directions", ()))) - {"query_to_doc"}:
            raise ValueError(f"loss.loss.directions={sorted(directions)}: XTR searches documents: set [query_to_doc]")

    @property
    def losses(self) -> tuple[Any, ...]:
        return (self.loss,)

    @property
    def differentiable(self) -> bool:
        """False: which tokens are found is a constant for the gradient."""
        return False

    def __call__(self, loss_inputs: LossInputs) -> tuple[Tensor, Statistics]:
        """Return the scalar of the loss inside, and its statistics."""
        queries = loss_inputs.queries
        if not isinstance(queries, Ragged):
            raise ValueError("loss XTR needs vectors of tokens: choose model=late_interaction")
        least = self._least(loss_inputs).to(queries.dtype)
        found = queries.with_values(torch.cat([queries.values, least.unsqueeze(1)], dim=1))
        return compute_loss(self.loss, replace(loss_inputs, queries=found, similarity=RetrievedMaxSim()))

    @torch.no_grad()
    def _least(self, inputs: LossInputs) -> Tensor:
        """The least product that is found, of each vector of the queries [elements]. It lies between the last that is
        found and the next, so that the rounding of a product does not decide."""
        texts = (inputs.queries, inputs.documents, inputs.labels, inputs.mask)
        batch = InBatch.from_lists(*texts, inputs.similarity, share=inputs.share)
        vectors = batch.queries.detach().values
        top = vectors.new_empty(len(vectors), 0)
        for block in batch.document_blocks():
            for part in block.values.split(max(1, PRODUCTS_AT_ONCE // max(1, len(vectors)))):
                products = torch.cat([top, vectors @ part.T], dim=1)
                top = products.topk(min(self.top_k + 1, products.shape[1]), dim=1).values
        if top.shape[1] <= self.top_k:
            return vectors.new_full((len(vectors),), -torch.inf)
        return (top[:, -2] + top[:, -1]) / 2


def reads_token_vectors(loss: Any) -> bool:
    """Whether a loss, or one inside it, reads a vector per token, so that a model with one vector per text does not
    fit."""
    return any(getattr(each, "reads_token_vectors", False) for each in all_losses(loss))
