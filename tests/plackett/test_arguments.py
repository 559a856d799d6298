"""What callers may give: errors are one line that names the argument, and nothing is read as what it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import plackett
from plackett.arguments import check_count, checked_device, checked_embeddings, checked_pairs, checked_texts


@pytest.mark.parametrize("texts", [None, 5, {"a": "b"}, {"a", "b"}, "one", b"one", [b"one"], [None], [{"text": "a"}]])
def test_what_is_no_list_of_texts_is_refused(texts):
    with pytest.raises(ValueError, match=r"^documents"):
        checked_texts("documents", texts)


def test_texts_may_come_from_any_ordered_iterable():
    for texts in (("a", "b"), iter(["a", "b"]), np.array(["a", "b"]), {"x": "a", "y": "b"}.values()):
        assert checked_texts("documents", texts) == ["a", "b"]


@pytest.mark.parametrize("pairs", [None, 5, {"a": "b"}, "ab", [5], ["ab"], [{"query": "a", "document": "b"}], [{1, 2}]])
def test_what_is_no_pair_is_refused(pairs):
    with pytest.raises(ValueError, match=r"^pairs"):
        checked_pairs(pairs)
    assert checked_pairs(np.array([["a", "b"]])) == [("a", "b")]


@pytest.mark.parametrize("count", [0, -1, "2", 1.5, [1]])
def test_a_count_is_a_whole_number_of_at_least_1(count):
    with pytest.raises(ValueError, match=r"^top_k must be"):
        check_count("top_k", count)
    check_count("top_k", np.int64(1))


def test_embeddings_of_any_library_are_read_alike():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = torch.tensor(values)
    given = [values, values.tolist(), values.astype(np.int8), values[::-1][::-1], tensor.requires_grad_()]
    for vectors in [*given, tensor.detach().bfloat16(), list(tensor.detach())]:
        found = checked_embeddings("queries", vectors)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert (found.numpy() == values).all()


@pytest.mark.parametrize("vectors", [None, "a", ["a"], [[1.0], [1.0, 2.0]], [1.0, 2.0], np.ones((1, 2)) * 1j])
def test_what_is_no_matrix_of_embeddings_is_refused(vectors):
    with pytest.raises(ValueError, match=r"^queries must be embeddings \[queries, dim\]"):
        checked_embeddings("queries", vectors)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_before_the_model_is_read(device, tmp_path):
    with pytest.raises(ValueError, match=f"^device='{device}' cannot be used"):
        plackett.load(tmp_path, device=device)
    assert checked_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("options", [{"max_length": "9"}, {"max_length": 9.5}, {"name_or_path": None}])
def test_arguments_of_load_of_another_type_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        plackett.load(**{"name_or_path": Path(tmp_path), **options})


def test_errors_of_prompts_and_templates_name_arguments(tiny_reranker_dir, tiny_causal_dir):
    reranker = plackett.load(tiny_reranker_dir)
    for call in (
        lambda: reranker.rank("a", ["b"], instruction="apple " * 500),
        lambda: plackett.load(tiny_causal_dir, template=""),
        lambda: plackett.load(tiny_reranker_dir, max_length=3),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert "model." not in str(error.value).replace(str(tiny_causal_dir), "")
        assert "null" not in str(error.value)
