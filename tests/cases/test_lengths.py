"""A model is read up to the length that its folder was trained with, unless the command line gives another."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoTokenizer

from launch.cli.compose import load
from models.loading.reranker import load_reranker

UNLIMITED = int(1e30)  # what transformers says of a tokenizer without a length


def options_of(model: str, folder: Path, *settings: str) -> Any:
    """The options of `launch/evaluate.py` for the model of a folder."""
    return load([f"model={model}", f"model.name_or_path={folder}", *settings], "evaluate").model


def length_of(model: str, folder: Path, *settings: str) -> int:
    return options_of(model, folder, *settings).build(0).tokenizer.max_length


def set_tokenizer_length(folder: Path, length: int) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = length
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> dict[str, Path]:
    """The folders of an encoder, a language model and a decoder that read 1,024 tokens. Do not write to them."""
    root = tmp_path_factory.mktemp("models")
    tiny_models.write_tiny_bert(root / "encoder", max_position_embeddings=1024)
    tiny_models.write_tiny_causal(root / "causal", max_position_embeddings=1024)
    tiny_models.write_tiny_decoder(root / "decoder", max_position_embeddings=1024)
    return {folder.name: set_tokenizer_length(folder, UNLIMITED) for folder in root.iterdir()}


TEMPLATE = (
    "model.template={_target_: models.prompts.template.PromptTemplate, pieces: ['{query} {document}'], "
    "true_answer: '1', false_answer: '0'}"
)
CASES = [  # model, its folder, settings, the length of a model that was not trained by any trainer
    ("cross_encoder", "encoder", (), 256),
    ("llm_reranker", "causal", (TEMPLATE,), 512),
    ("qwen3_embedding", "decoder", ("model.lora=null",), 512),
]


@pytest.mark.parametrize(("model", "name", "settings", "default"), CASES)
@pytest.mark.parametrize("length", [200, 600])
def test_an_export_is_read_as_it_was_trained(folders, tmp_path, model, name, settings, default, length):
    options = options_of(model, folders[name], *settings)
    assert options.build(0).tokenizer.max_length == default
    trained = options_of(model, folders[name], *settings, f"model.max_length={length}").build(0)
    trained.export(tmp_path / "model")
    assert length_of(model, tmp_path / "model", *settings[1:]) == length
    assert options.starting_from(tmp_path / "model").build(0).tokenizer.max_length == length
    if model != "qwen3_embedding":
        assert load_reranker(str(tmp_path / "model")).tokenizer.max_length == length
    assert length_of(model, tmp_path / "model", "model.max_length=100") == 100


@pytest.mark.parametrize(("model", "name", "settings", "default"), CASES)
def test_a_default_is_bounded_by_what_a_model_reads(tmp_path, tiny_models: ModuleType, model, name, settings, default):
    write = {"encoder": "write_tiny_bert", "causal": "write_tiny_causal", "decoder": "write_tiny_decoder"}[name]
    folder = getattr(tiny_models, write)(tmp_path / "model", max_position_embeddings=192)
    assert length_of(model, set_tokenizer_length(folder, UNLIMITED), *settings) == 192
    assert length_of(model, set_tokenizer_length(folder, 150), *settings) == 150


def test_a_reranker_of_others_has_the_length_of_its_tokenizer(tmp_path, tiny_models: ModuleType):
    folder = tiny_models.write_tiny_bert(tmp_path / "model", reranker=True, max_position_embeddings=1024)
    assert length_of("cross_encoder", set_tokenizer_length(folder, 512)) == 512
    assert length_of("cross_encoder", set_tokenizer_length(folder, UNLIMITED)) == 1024


def test_an_embedder_that_becomes_a_reranker_reads_no_longer_pairs_than_before(tmp_path, folders):
    embedder = options_of("bi_encoder", folders["encoder"], "model.max_length=800").build(0)
    embedder.export(tmp_path / "long")
    assert json.loads((tmp_path / "long" / "sentence_bert_config.json").read_text())["max_seq_length"] == 800
    assert length_of("bi_encoder", tmp_path / "long") == 800
    assert length_of("cross_encoder", tmp_path / "long") == 256


@pytest.mark.parametrize("length", [24, 128])
def test_an_embedders_length_of_a_text_is_none_of_a_pair(length, tmp_path, folders):
    build = options_of("bi_encoder", folders["encoder"], f"model.max_length={length}").build(0)
    build.export(tmp_path / "short")
    assert length_of("bi_encoder", tmp_path / "short") == length
    assert length_of("cross_encoder", tmp_path / "short") == 256


def test_a_length_that_a_model_cannot_read_names_the_remedy(folders):
    wrong = r"^model.max_length=2000: .*encoder reads rows of 8 to 1024 tokens: give such a length, or leave it out"
    with pytest.raises(ValueError, match=wrong):
        length_of("cross_encoder", folders["encoder"], "model.max_length=2000")
