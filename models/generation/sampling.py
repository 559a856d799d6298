"""Sample tokens by random numbers that belong to a row, so that its text does not depend on the rows beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How tokens are drawn. With temperature 0 the likeliest one is taken."""

    max_new_tokens: int | None = None  # of a text; None: the caller's
    temperature: float = 0.7
    top_p: float = 0.95  # the likeliest tokens that together have this probability
    top_k: int = 50  # of at most so many; 0: of all
    batch_size: int = 16  # texts that are written at once

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"generate.max_new_tokens={self.max_new_tokens} must be null or at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"generate.temperature={self.temperature} must be at least 0 and finite")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"generate.top_p={self.top_p} must lie above 0 and be at most 1")
        if self.top_k < 0:
            raise ValueError(f"generate.top_k={self.top_k} must be at least 1, or 0 for all tokens")
        if self.batch_size < 1:
            raise ValueError(f"generate.batch_size={self.batch_size} must be at least 1")


class SampleByRow(LogitsProcessor):
    """Draws each row's next token by a number of its own, the inverse of the distribution function.

    With p the softmax of the logits over the temperature, sorted from the likeliest token on and cut by top_k and then
    top_p, the token is the first whose cumulated share exceeds the number. `numbers` [rows, steps] are uniform in
    [0, 1); column t is for the t-th new token. The chosen token gets score 0 and the others minus infinity, so that a
    greedy search takes it.

    A torch generator would serve all rows of a batch: a row would get other numbers with other rows beside it.
    """

    def __init__(self, numbers: Tensor, options: SamplingOptions) -> None:
        self.numbers, self.options, self.step = numbers, options, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Replace scores [rows, vocabulary] by those of the chosen tokens. `input_ids` are not read."""
        if self.options.temperature == 0:
            return scores
        chosen = choose(scores, self.numbers[:, self.step], self.options)
        self.step += 1
        return torch.full_like(scores, -math.inf).scatter_(1, chosen.unsqueeze(1), 0.0)


def choose(scores: Tensor, numbers: Tensor, options: SamplingOptions) -> Tensor:
    """The tokens [rows] that `numbers` [rows] draw from scores [rows, vocabulary] (`SampleByRow`)."""
    size = scores.shape[-1]
    values, tokens = (scores.float() / options.temperature).topk(min(options.top_k or size, size), dim=-1)
    shares = values.softmax(dim=-1)
    shares = shares * (shares.cumsum(dim=-1) - shares < options.top_p)  # the likeliest token always stays
    cumulated = shares.cumsum(dim=-1)
    passed = cumulated <= numbers.to(cumulated).unsqueeze(-1) * cumulated[:, -1:]
    last = (shares > 0).sum(dim=-1) - 1
    place = torch.minimum(passed.sum(dim=-1), last)
    return tokens.gather(1, place.unsqueeze(1)).squeeze(1)
