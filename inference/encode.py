"""Embed texts, sharded over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from data.batch import TokenSequences
from inference.runner import Runner, row_collator
from inference.score import represent_distinct, tokenize_sharded


def tokenize_texts(tokenizer: Any, texts: Sequence[str], role: str, prompts: Sequence[str | None]) -> TokenSequences:
    """Tokenise queries or documents (`role`), each rank its share, as `tokenize_sharded` does. `prompts`: one for each
    text, None: the model's own."""

    def tokenize(part: slice) -> dict[str, list[list[int]]]:
        return tokenize_part(tokenizer, texts[part], role, prompts[part])

    return tokenize_sharded(tokenize, [1] * len(texts))


def tokenize_part(
    tokenizer: Any, texts: Sequence[str], role: str, prompts: Sequence[str | None]
) -> dict[str, list[list[int]]]:
    """Tokenise texts on this rank alone, to lists of ids."""
    encoded = []
    for prompt, pairs in groupby(zip(prompts, texts, strict=True), key=lambda pair: pair[0]):
        options = {} if prompt is None else {"prompt": prompt}
        encoded.append(tokenizer([text for _, text in pairs], role=role, **options))
    return {name: [row for group in encoded for row in group[name]] for name in encoded[0]}


def embed(runner: Runner, sequences: TokenSequences, tokenizer: Any, token_budget: int) -> Any:
    """The embeddings [len(sequences), dim] float32, or as many ragged rows, the same on all ranks, as the model gives
    them: see `Similarity.comparable`."""
    collator = row_collator(runner.model, tokenizer.padding, token_budget)
    return represent_distinct(runner, sequences, collator, ["embedding"])["embedding"]
