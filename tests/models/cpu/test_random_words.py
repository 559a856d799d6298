"""Random words of dropout masks: the exact probability, equal for equal seeds, on any number of threads."""

from __future__ import annotations

import pytest
import torch

from models.cpu import random_words
from models.cpu.random_words import BLOCK_BYTES, DropRule, draw_words

ANY = torch.empty(0)


def kept_of(rule: DropRule, words: torch.Tensor) -> torch.Tensor:
    return rule.write_kept(words, torch.empty(words.shape))


@pytest.mark.parametrize(
    ("asked", "dtype", "exact"),
    [
        (0.1, torch.uint8, 26 / 256),
        (0.05, torch.uint8, 13 / 256),
        (0.5, torch.uint8, 0.5),
        (0.01, torch.int16, 655 / 65536),  # 3/256 would be 17 % more
        (0.999, torch.int16, 65470 / 65536),  # 256/256 would keep nothing
        (1e-9, torch.int16, 1 / 65536),
        (1 - 1e-9, torch.int16, 65535 / 65536),
    ],
)
def test_the_exact_probability(asked: float, dtype: torch.dtype, exact: float) -> None:
    rule = DropRule.of(asked)
    assert (rule.dtype, rule.probability) == (dtype, exact)
    assert rule.scale * (1 - exact) == pytest.approx(1)
    levels = 256 if dtype == torch.uint8 else 65536
    every_word = torch.arange(levels).to(torch.uint8) if levels == 256 else torch.arange(-32768, 32768).short()
    assert float((1 - kept_of(rule, every_word)).sum()) == exact * levels


@pytest.mark.parametrize("asked", [0.1, 0.01, 0.7])
def test_as_many_words_are_dropped_as_the_probability_says(asked: float) -> None:
    rule, count = DropRule.of(asked), 4_000_000
    dropped = 1 - kept_of(rule, draw_words(rule, count, ANY)).double()
    deviation = (rule.probability * (1 - rule.probability) / count) ** 0.5
    assert abs(float(dropped.mean()) - rule.probability) < 5 * deviation
    neighbours = (dropped[1:] * dropped[:-1]).mean()
    assert abs(float(neighbours) - rule.probability**2) < 5 * rule.probability / count**0.5


def test_words_follow_from_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, count = DropRule.of(0.1), 2 * BLOCK_BYTES + 1234

    def draw(threads: int, seed: int) -> torch.Tensor:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        torch.manual_seed(seed)
        return draw_words(rule, count, ANY)

    first = draw(1, seed=5)
    assert torch.equal(first, draw(1, seed=5))
    assert torch.equal(first, draw(3, seed=5))
    assert not torch.equal(first, draw(1, seed=6))
    assert not torch.equal(first[:BLOCK_BYTES], first[BLOCK_BYTES : 2 * BLOCK_BYTES])
    assert not torch.equal(first, draw_words(rule, count, ANY))  # the next call


def test_no_words() -> None:
    assert draw_words(DropRule.of(0.1), 0, ANY).numel() == 0
    assert len(draw_words(DropRule.of(0.01), 3, ANY)) == 3
    assert random_words.BLOCK_BYTES % 8 == 0  # a block is whole 64-bit words
