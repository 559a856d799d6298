"""docs/losses.md matches the docstrings and conf/loss."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "make_losses.py"


@pytest.fixture(scope="module")
def make_losses():
    spec = importlib.util.spec_from_file_location("make_losses", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks up names there
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(make_losses):
    assert make_losses.PAGE.read_text() == make_losses.page(), "run: python docs/make_losses.py"


def test_lines_of_a_docstring(make_losses):
    opening = "s^2 (of s)  (A 2020, (1);\nB 2021). Without C.\n\nUse: x."
    assert make_losses.opening(opening) == {"Formula": "s^2 (of s)", "Source": "A 2020, (1); B 2021"}
    assert make_losses.opening("s^2 (of s).\n\nUse: x.") == {"Formula": "s^2 (of s)"}
    text = "max(0, s)\n\nMore of it.\n\nUse: where margins\nmatter.\nCost: n.\n\nNot of it."
    assert make_losses.named_lines(text) == {"Use": "where margins matter", "Cost": "n"}
