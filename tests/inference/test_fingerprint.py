"""The fingerprint of a model: the same for the same outputs, another for each thing that changes them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from inference.fingerprint import describe, model_fingerprint, model_key
from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.lora import LoRAConfig


def build(folder: Path, **options) -> BiEncoder:
    return BiEncoderConfig(str(folder), **options).build(seed=0)


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


def test_folder_name_use_mode_and_dropout_change_nothing(tiny_bert_dir: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "elsewhere")
    model, other = build(tiny_bert_dir), build(folder, dropout=0.3)
    first = model_key(model)
    model.tokenizer(["red apple " * 100], role="query")  # sets the truncation of the fast tokenizer
    model.eval()
    assert changed(first, model_key(model)) == set()
    assert changed(first, model_key(other)) == set()
    assert model_fingerprint(model) == model_fingerprint(other)


def test_an_export_is_the_same_model(tiny_bert_dir: Path, tmp_path: Path):
    model = build(tiny_bert_dir)
    model.export(tmp_path / "export")
    once = build(tmp_path / "export")
    once.export(tmp_path / "again")
    assert changed(model_key(once), model_key(build(tmp_path / "again"))) == set()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"max_length": 32}, {"length"}),
        ({"prompts": {"query": "query: "}}, {"prompts"}),
        ({"pooling": "cls"}, {"architecture"}),
        ({"similarity": "dot"}, {"architecture"}),
        ({"split_special_tokens": False}, {"tokenizer"}),
        ({"attention": "eager"}, {"architecture"}),
        ({"lora": LoRAConfig(r=2)}, {"architecture", "weights"}),
    ],
)
def test_options_that_change_outputs_change_their_part(tiny_bert_dir: Path, options: dict, parts: set[str]):
    assert changed(model_key(build(tiny_bert_dir)), model_key(build(tiny_bert_dir, **options))) == parts


def test_the_scale_of_adapters_counts(tiny_bert_dir: Path):
    one, other = (build(tiny_bert_dir, lora=LoRAConfig(r=2, alpha=alpha)) for alpha in (4, 8))
    assert changed(model_key(one), model_key(other)) == {"architecture"}


def test_int8_ranges_are_a_part_of_their_own(tiny_bert_dir: Path, tmp_path: Path):
    """They change no output, only what is stored as int8."""
    model = build(tiny_bert_dir)
    first = model_key(model)
    model.track_int8_ranges([32])
    assert model_key(model) == first, "nothing was observed"
    model.int8_ranges.keep({32: torch.tensor([[-1.0] * 32, [1.0] * 32])})
    known = model_key(model)
    assert {name: value for name, value in known.items() if name != "int8_ranges"} == first
    model.export(tmp_path / "export")
    assert changed(model_key(build(tmp_path / "export")), known) <= {"architecture", "length", "tokenizer"}
    model.int8_ranges.keep({32: torch.tensor([[-1.0] * 32, [2.0] * 32])})
    assert changed(model_key(model), known) == {"int8_ranges"}


def test_a_single_weight_and_the_precision_count(tiny_bert_dir: Path):
    model = build(tiny_bert_dir)
    first = model_key(model)
    assert changed(first, model_key(model, precision="bf16")) == {"precision"}
    with torch.no_grad():
        next(model.parameters()).view(-1)[-1] += 1e-6
    assert changed(first, model_key(model)) == {"weights"}


def test_another_vocabulary_of_the_same_size_counts(tiny_bert_dir: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "other")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"apple"', '"grape"'))
    assert changed(model_key(build(tiny_bert_dir)), model_key(build(folder))) == {"tokenizer"}


def test_prompts_that_a_run_expects_count(tiny_bert_dir: Path):
    """They change which control tokens are read as text."""
    model = build(tiny_bert_dir)
    first = model_key(model)
    model.tokenizer = replace(model.tokenizer, prompt_tokens=("[MASK]",))
    assert changed(first, model_key(model)) == {"prompts"}


class Own(nn.Module):
    """A model of a user's own, without a tokenizer of transformers."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor, self.source = factor, "a place"
        self.layer = nn.Linear(3, 3, bias=False)
        self.register_buffer("halves", torch.ones(2, dtype=torch.bfloat16))
        nn.init.ones_(self.layer.weight)


def test_a_model_from_outside_has_its_settings_in_it():
    assert changed(model_key(Own()), model_key(Own())) == set()
    assert changed(model_key(Own()), model_key(Own(3.0))) == {"architecture"}


def test_descriptions_depend_on_no_order_of_sets_or_mappings():
    assert describe({"b": {2, 1}, "a": (1, None)}) == describe({"a": [1, None], "b": {1, 2}})
    assert describe({"name_or_path": "x", "hidden_dropout_prob": 0.1, "size": 3}) == {"size": 3}
    assert describe(torch.float32) == describe(torch.bfloat16) == "dtype"
