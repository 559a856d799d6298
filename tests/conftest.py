"""Fixtures for every folder of tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def _tiny_models():
    """tests/ is no package (a tests/losses/__init__.py would hide the real `losses`), so load the helper by path."""
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parent / "tiny_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_models():
    """The module tests/tiny_models.py: `write_tiny_bert(folder, reranker=..., seed=..., **config)`."""
    return _tiny_models()


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory, tiny_models) -> Path:
    """A folder with a tiny BERT encoder (no score head) and its tokenizer. Do not write to it."""
    return tiny_models.write_tiny_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def tiny_reranker_dir(tmp_path_factory, tiny_models) -> Path:
    """A folder with a tiny BERT cross-encoder (one label) and its tokenizer. Do not write to it."""
    return tiny_models.write_tiny_bert(tmp_path_factory.mktemp("tiny_reranker"), reranker=True, seed=1)
