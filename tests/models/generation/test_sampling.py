"""Tokens drawn by numbers of a row: the distribution is that of transformers' own filters."""

from __future__ import annotations

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from models.generation.sampling import SampleByRow, SamplingOptions, choose

NUMBERS = (torch.arange(20_000) + 0.5) / 20_000


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "top_p": 1.0, "top_k": 0},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 0},
        {"temperature": 1.5, "top_p": 1.0, "top_k": 3},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 5},
        {"temperature": 1.0, "top_p": 1e-6, "top_k": 0},
    ],
)
def test_the_shares_of_tokens_are_those_of_transformers(options):
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(3)) * 2
    wanted = TemperatureLogitsWarper(options["temperature"])(None, scores)
    if options["top_k"]:
        wanted = TopKLogitsWarper(options["top_k"])(None, wanted)
    wanted = TopPLogitsWarper(options["top_p"])(None, wanted).softmax(dim=-1)[0]
    drawn = choose(scores.expand(len(NUMBERS), -1), NUMBERS, SamplingOptions(**options))
    shares = torch.bincount(drawn, minlength=40) / len(NUMBERS)
    torch.testing.assert_close(shares, wanted, atol=2e-4, rtol=0)
    assert torch.equal(shares > 0, wanted > 1e-4)


def test_numbers_at_the_ends_give_the_first_and_the_last_token_that_may_come():
    scores = torch.tensor([[3.0, 1.0, 2.0, -50.0]]).expand(2, -1)
    drawn = choose(scores, torch.tensor([0.0, 1 - 2**-24]), SamplingOptions(temperature=1.0, top_p=1.0, top_k=3))
    assert drawn.tolist() == [0, 1]


def test_a_row_draws_the_same_whatever_is_beside_it():
    scores = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    numbers = torch.rand(5, 1, generator=torch.Generator().manual_seed(1))
    options = SamplingOptions()
    together = SampleByRow(numbers, options)(None, scores).argmax(dim=-1)
    alone = [SampleByRow(numbers[i : i + 1], options)(None, scores[i : i + 1]).argmax().item() for i in range(5)]
    assert together.tolist() == alone


def test_temperature_0_takes_the_likeliest():
    scores = torch.randn(2, 9)
    assert SampleByRow(torch.rand(2, 1), SamplingOptions(temperature=0))(None, scores) is scores


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"batch_size": 0}, {"max_new_tokens": 0}],
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=f"generate.{next(iter(wrong))}="):
        SamplingOptions(**wrong)
