"""Fixtures for all tests. Every test runs offline; a test that needs a GPU is skipped if there is none."""

from __future__ import annotations

import copy
import gc
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

# Set before torch and the tokenizers are imported. Small models gain nothing from threads, and the ranks of the
# distributed tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

import pytest
import torch
from omegaconf import OmegaConf

from engines.distributed import testing

# Files of few tests that take long. They run first, so that no process is left alone with one at the end.
LONG_FILES = ("test_crash.py", "test_faults.py", "test_resharding.py", "test_smollm2.py", "test_gguf.py")


def pytest_configure() -> None:
    """Let the processes that tests start begin quickly."""
    # Images of containers set this: every process would compile the whole project, and pytest rewrite all tests.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    testing.PRELOADED = [*testing.PRELOADED, *_helper("preloaded").MODULES, "pytest"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first; skip the tests marked `gpu` if there is no GPU."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)  # a stable sort
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """Leave what was collected out of every later search for garbage, which takes half a second with it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Seed torch, so that a test that sets no seed itself is the same every time."""
    if torch.cuda.is_initialized():
        torch.manual_seed(0)
    else:  # torch.manual_seed would keep the stack of each call, for a GPU that may come
        torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _configuration_parsed_once() -> Iterator[None]:
    """Parse a file of the configuration once for as long as its text stays: that is half of the time of composing."""
    load = OmegaConf.load
    parsed = cache(lambda text: load(io.StringIO(text)))

    def load_once(file: Any) -> Any:
        if not isinstance(file, io.TextIOBase):
            return load(file)
        start, text = file.tell(), file.read()
        try:
            return copy.deepcopy(parsed(text))
        except Exception:  # once more, for the message to name the file
            file.seek(start)
            return load(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load_once)
        yield


def _helper(name: str) -> ModuleType:
    """Load a helper module by its path. tests/ is not a package: a tests/losses/__init__.py would hide `losses`."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_models() -> ModuleType:
    """The module tests/tiny_models.py: `write_tiny_bert(folder, reranker=..., seed=..., **config)`."""
    return _helper("tiny_models")


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> Path:
    """A folder with a tiny BERT encoder (no score head) and its tokenizer. Do not write to it."""
    return tiny_models.write_tiny_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def tiny_reranker_dir(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> Path:
    """A folder with a tiny BERT cross-encoder (one label) and its tokenizer. Do not write to it."""
    return tiny_models.write_tiny_bert(tmp_path_factory.mktemp("tiny_reranker"), reranker=True, seed=1)


@pytest.fixture(scope="session")
def tiny_beir_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection in BEIR's layout, small enough to train on in seconds. Do not write to it."""
    return _helper("tiny_collection").write_tiny_collection(tmp_path_factory.mktemp("tiny_beir"))


@pytest.fixture(scope="session")
def tiny_overrides(tiny_beir_dir: Path, tiny_bert_dir: Path) -> Callable[[Path], list[str]]:
    """A function `tiny_overrides(folder)`: the settings of a run that takes seconds and writes to `folder`.

    It has lists of different lengths, several chunks per step, and SGD.
    """

    def overrides(folder: Path) -> list[str]:
        return [
            "data=beir",
            f"data.path={tiny_beir_dir}",
            f"data.cache_dir={folder / 'cache'}",
            "data.lists.random_fraction=0",
            "data.candidates.depth=12",
            f"model.name_or_path={tiny_bert_dir}",
            "model.max_length=48",
            "trainer.optimizer=sgd",
            "trainer.learning_rate=0.05",
            "trainer.batch_size=3",
            "trainer.list_size=7",
            "trainer.token_budget=160",
            "trainer.kept_chunks=1",
            "trainer.workers=0",
            "eval.depth=8",
            "logger=none",
            f"output_dir={folder / 'outputs'}",
        ]

    return overrides


@pytest.fixture
def tiny_run(tiny_overrides: Callable[[Path], list[str]], tmp_path: Path) -> list[str]:
    """The settings of `tiny_overrides` for a run in the folder of the test."""
    return tiny_overrides(tmp_path)


@pytest.fixture(scope="session")
def tiny_causal_dir(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> Path:
    """A folder with a tiny Qwen2.5 causal language model whose embeddings and head are tied. Do not write to it."""
    return tiny_models.write_tiny_causal(tmp_path_factory.mktemp("tiny_causal"))
