"""What the tests of bi-encoders share: texts of mixed length, embeddings of ours and of sentence-transformers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.bi_encoder import BiEncoder

TEXTS = ["what is python?", "python returns the value of a list " * 12, "x", "Green Apple"]


def many_texts(count: int = 100) -> list[str]:
    """Of 1 to 20 words."""
    words = ["what", "is", "the", "red", "apple", "train", "rank", "document", "python", "returns", "value", "7"]
    rng = random.Random(0)
    return [" ".join(rng.choices(words, k=rng.randint(1, 20))) for _ in range(count)]


def features(model: BiEncoder, texts: list[str], role: str | None = None, *, side: str = "right", prompt=None):
    encoding = model.tokenizer(texts, role, prompt)
    width = max(len(row) for row in encoding["input_ids"]) + 3
    rows = {**encoding, "attention_mask": [[1] * len(row) for row in encoding["input_ids"]]}
    del rows["truncated"]
    result = {}
    for name, values in rows.items():
        fill = [[model.tokenizer.padding.get(name, 0)] * (width - len(row)) for row in values]
        padded = [f + row if side == "left" else row + f for row, f in zip(values, fill, strict=True)]
        result[name] = torch.tensor(padded)
    return result


def embed(model: BiEncoder, texts: list[str] = TEXTS, role: str | None = None, **options) -> Tensor:
    with torch.no_grad():
        return model(**features(model, texts, role, **options))["embedding"]


def oracle(folder: Path, **options):
    return pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu", **options)


def assert_equal_to_oracle(model: BiEncoder, folder: Path, texts: list[str] = TEXTS) -> None:
    """`SentenceTransformer(folder)` embeds queries and documents as `model` does, and compares them alike."""
    theirs = oracle(folder)
    assert theirs.max_seq_length == model.tokenizer.max_length
    assert theirs.similarity_fn_name == model.similarity
    for role, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        expected = encode(texts, convert_to_tensor=True)
        torch.testing.assert_close(embed(model, texts, role), expected, atol=1e-5, rtol=0)
