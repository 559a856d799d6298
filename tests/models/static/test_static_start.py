"""What a static embedder starts with: model2vec's arithmetic, the vectors of another model, or random ones."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.loading.backbone import without_weights
from models.static import start
from models.static.embedder import StaticEmbedderConfig


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "assets"))


def table_of(model: BiEncoder) -> Tensor:
    return model.tower.embedding.weight.detach()


def assert_rotated(found: Tensor, expected: Tensor) -> None:
    """All principal components keep the differences of any two vectors."""
    distances = [torch.cdist(vectors.double(), vectors.double()) for vectors in (found, expected)]
    torch.testing.assert_close(*distances, rtol=1e-4, atol=1e-4)


def test_principal_components_are_those_of_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    vectors, tokens = torch.randn(50, 8) * torch.arange(1, 9), torch.arange(3, 50)
    found = start.principal_components(vectors, tokens, 5)
    expected = decomposition.PCA(5, svd_solver="full").fit_transform(vectors[tokens].numpy())
    signs = np.sign((found[tokens].numpy() * expected).sum(0))
    np.testing.assert_allclose(found[tokens].numpy(), expected * signs, atol=1e-4)
    assert not found[:3].any()


def test_frequent_tokens_weigh_less() -> None:
    weights = start.frequency_weights(1000, 1e-4)
    ranks = 1 / np.arange(2, 1002)
    np.testing.assert_allclose(weights.numpy(), 1e-4 / (1e-4 + ranks / ranks.sum()), rtol=1e-6)
    assert (weights.diff() > 0).all()


def test_distilled_vectors_are_what_the_model_makes_of_each_token(
    tiny_bert_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        model = StaticEmbedderConfig(str(tiny_bert_dir), sif_coefficient=None).build(seed=0)
    assert "embedded once" in caplog.text
    source = BiEncoderConfig(str(tiny_bert_dir), similarity="dot").build(seed=0).eval()
    tokens = source.tokenizer.tokenizer.convert_tokens_to_ids(["apple", "pear", "python"])
    rows = torch.tensor([[2, token, 3] for token in tokens])
    expected = source(input_ids=rows, attention_mask=torch.ones_like(rows))["embedding"]
    found = table_of(model)[tokens]
    assert_rotated(found, expected)
    assert not table_of(model)[:5].any(), "control tokens have no vector"
    monkeypatch.setattr(start, "_embed_tokens", None)
    again = StaticEmbedderConfig(str(tiny_bert_dir), dimension=8).build(seed=0)  # other options, the same vectors
    weights = start.frequency_weights(len(model.tower.embedding.weight) - 5, 1e-4)
    torch.testing.assert_close(table_of(again)[5:], table_of(model)[5:, :8] * weights[:, None])


def test_word_embeddings(tiny_bert_dir: Path) -> None:
    model = StaticEmbedderConfig(str(tiny_bert_dir), start="word_embeddings", sif_coefficient=None).build(seed=0)
    source = BiEncoderConfig(str(tiny_bert_dir)).build(seed=0)
    own = source.tower.backbone.get_input_embeddings().weight.detach()[5:40]
    assert_rotated(table_of(model)[5:40], own)


def test_random_vectors_depend_on_the_seed_alone(tiny_bert_dir: Path) -> None:
    options = StaticEmbedderConfig(str(tiny_bert_dir), start="random", dimension=6)
    first, again, other = (table_of(options.build(seed=seed)) for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert first.shape[1] == 6


def test_int8_ranges_are_those_of_the_table_that_is_read(tiny_bert_dir: Path, tmp_path: Path) -> None:
    """A new table has other vectors than the model that it starts from, whose folder holds the ranges of its own."""
    folder, ranges = tmp_path / "static", np.array([[-1.0], [1.0]], dtype=np.float32)
    StaticEmbedderConfig(str(tiny_bert_dir), start="random", dimension=32).build(seed=0).eval().export(folder)
    other = shutil.copytree(tiny_bert_dir, tmp_path / "other")
    for target in (folder, other):
        np.save(target / "int8_ranges.npy", ranges.repeat(32, axis=1))

    def ranges_of(source: Path, **options) -> object:
        return StaticEmbedderConfig(str(source), **options).build(seed=0).int8_ranges

    assert ranges_of(folder).dims == (32,)
    assert ranges_of(folder, start="random", dimension=32) is None
    assert ranges_of(other) is None


@pytest.mark.parametrize("kind", start.STARTS)
def test_checks_read_no_weights(kind: str, tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_embed_tokens", None)
    options = StaticEmbedderConfig(str(tiny_bert_dir), start=kind, dimension=16)
    options.check()
    with without_weights():
        model = options.build(seed=0)
    assert model.tower.embedding.weight.is_meta
    assert model.dimension == 16


def test_a_cache_that_cannot_be_written_is_named(tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(start, "cached_assets_path", fail)
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\): name another .* HF_ASSETS_CACHE"):
        StaticEmbedderConfig(str(tiny_bert_dir)).build(seed=0)
