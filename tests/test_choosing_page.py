"""The generated part of docs/choosing.md matches the published facts, and its example is a file that is read."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from evaluation.known_models.catalogue import known_models, published
from evaluation.known_models.facts import Fact

SCRIPT = Path(__file__).parents[1] / "docs" / "make_choosing.py"


@pytest.fixture(scope="module")
def make_choosing():
    spec = importlib.util.spec_from_file_location("make_choosing", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks up names there
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(make_choosing):
    assert make_choosing.PAGE.read_text(encoding="utf-8") == make_choosing.page(), "run: python docs/make_choosing.py"


def test_every_model_is_listed_and_every_number_is_a_source(make_choosing):
    text = make_choosing.generated(published())
    assert all(f"| `{name}` |" in text for name in published())
    cited = {int(number) for number in re.findall(r" \[(\d+)\]", text)}
    assert cited == {int(number) for number in re.findall(r"^\[(\d+)\]: https://", text, re.MULTILINE)}


def test_values_are_shown_as_a_reader_expects_them(make_choosing):
    values = {
        ("parameters", 1_543_714_304): "1.54B",
        ("parameters", 22_713_216): "22.7M",
        ("parameters", 999): "999",
        ("context", 8192): "8,192",
        ("beir", 57.49): "57.49",
        ("price", 0.1): "0.10",
        ("training", ("GRPO", "DPO")): "GRPO; DPO",
    }
    assert {key: make_choosing.shown(key[0], Fact(key[1], "s", "2026-05")) for key in values} == values


def test_the_example_of_the_page_is_read(make_choosing, tmp_path):
    example = re.search(
        r"\n((?:    .*\n)+)", make_choosing.PAGE.read_text(encoding="utf-8").partition("### Your own")[2]
    )[1]
    file = tmp_path / "facts.yaml"
    file.write_text("\n".join(line[4:] for line in example.splitlines()), encoding="utf-8")
    models = known_models([file])
    assert models.models["BAAI/bge-m3"].fact("remark").value == "allowed for customer data"
    assert [fact.value for fact in models.models["exports/faq-embedder"].on_set("scifact")] == [71.2, 70.8]
