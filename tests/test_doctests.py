"""The examples in docstrings are correct."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("data", "engines", "evaluation", "launch", "losses", "models", "trainers")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")) if ">>>" in file.read_text()]


def test_there_are_examples():
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_examples_hold(file):
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
