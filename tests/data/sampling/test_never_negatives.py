"""The keys of texts, and a cache of bounded size. What is never a negative: tests/cases/test_judged_negatives.py."""

import pytest

from data.collection import Collection, Split
from data.sampling import never_negatives
from data.sampling.never_negatives import NeverNegatives, text_key


def test_equal_texts_share_a_key():
    assert text_key("An  Apple\n") == text_key("an apple") != text_key("an orange")


def test_a_full_cache_is_emptied(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(never_negatives, "MAX_CACHED_KEYS", 3)
    documents = {f"d{i}": f"text {i}" for i in range(8)}
    split = Split({"q": "query"}, {"q": dict.fromkeys(documents, 1)}, {"q": []})
    never = NeverNegatives({"a": Collection("a", documents, {"train": split}, "hash")})
    for _ in range(2):
        assert never.of("a", "q") == {text_key(text) for text in [*documents.values(), "query"]}
        assert len(never.sources["a"]._keys) <= 3
