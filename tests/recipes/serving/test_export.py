"""ONNX files and sequence classifiers of exports: the scores of training, and refusals in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_exports import copied

from inference.golden import read_golden
from launch import export as command
from models.bi_encoder import BiEncoder
from models.loading.folder import ModelFolder, content_files
from models.loading.reranker import load_reranker
from recipes.serving import onnx_export
from recipes.serving.export import export_classifier, export_onnx
from recipes.serving.onnx_files import int8_file, onnx_files
from recipes.serving.verify import EQUAL, TOLD, UNAVAILABLE, verify

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def onnx_copy(exports, tmp_path_factory) -> Path:
    """A copy of an embedding model with ONNX files."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx") / "copy"
    assert export_onnx(str(exports["lora"]), folder, int8=True).is_right
    return folder


@pytest.mark.parametrize(
    "kind",
    ["bi_encoder", "cross_encoder", "llm", *(pytest.param(k, marks=pytest.mark.slow) for k in ("towers", "decoder"))],
)
def test_onnx_runtime_gives_the_scores_of_training(kind, exports, tmp_path):
    pytest.importorskip("onnxruntime")
    folder = copied(exports[kind], tmp_path / "model")
    before = content_files(folder).keys()
    written = export_onnx(str(folder), None, int8=kind in ("bi_encoder", "llm"))
    assert written.is_right
    equal, *others = written.findings
    assert (equal.backend, equal.status) == ("onnx", EQUAL)
    assert equal.difference < 1e-4
    assert [(other.backend, other.status) for other in others] == [(f"onnx {int8_file()}", TOLD)] * len(others)
    assert all(0 < other.difference < 1 for other in others)
    assert content_files(folder).keys() == before, "what loading reads is as before"


def test_the_files_are_where_sentence_transformers_looks_for_them(exports, onnx_copy):
    """Its own search, in place of Optimum's loading, which stops at an older transformers."""
    utils = pytest.importorskip("sentence_transformers.backend.utils")
    target = onnx_copy
    for options in ({}, {"file_name": "model.onnx"}, {"file_name": f"onnx/{int8_file()}"}):
        export, found = utils.backend_should_export(target, True, dict(options), "model.onnx", "*.onnx", "ONNX")
        assert not export
        assert (target / found["subfolder"] / found["file_name"]).is_file()
    assert not (exports["lora"] / "onnx").exists(), "the export itself is as before"
    graph = pytest.importorskip("onnxruntime").InferenceSession(target / "onnx" / "model.onnx")
    assert [value.name for value in graph.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [value.name for value in graph.get_outputs()] == ["last_hidden_state"]


def test_rows_and_tokens_are_dynamic(onnx_copy):
    runtime = pytest.importorskip("onnxruntime")
    graph = runtime.InferenceSession(onnx_copy / "onnx" / "model.onnx")
    model = BiEncoder.load(onnx_copy)
    for rows, tokens in ((1, 1), (1, 128), (7, 3)):
        ids = torch.randint(5, 60, (rows, tokens))
        mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1))).long()
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        (found,) = graph.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            expected = model.tower.backbone(**inputs).last_hidden_state
        read = mask.bool().numpy()
        np.testing.assert_allclose(found[read], expected.numpy()[read], atol=1e-5)


def test_weights_above_the_limit_of_a_file_lie_beside_it(exports, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 0)
    written = export_onnx(str(exports["cross_encoder"]), tmp_path / "copy", int8=True)
    assert written.is_right
    files = {file.name for file in (tmp_path / "copy" / "onnx").iterdir()}
    assert {"model.onnx", "model.onnx_data", int8_file()} <= files


def test_the_classifier_of_an_llm_reranker_gives_its_scores(exports, tmp_path):
    source = copied(exports["llm"], tmp_path / "model")
    written = export_classifier(str(source), None)
    assert written.is_right
    assert written.difference < 1e-4
    target = tmp_path / "model-classifier"
    config = json.loads((target / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForSequenceClassification"]
    assert len(config["id2label"]) == 1
    assert config["pad_token_id"] is not None
    with pytest.raises(ValueError, match="exists already"):
        export_classifier(str(source), None)
    with pytest.raises(ValueError, match="it reads whole prompts, not pairs"):
        load_reranker(str(target))


def test_a_classifier_of_an_export_without_golden_texts_leaves_it_as_it_is(exports, tmp_path):
    source = copied(exports["llm"], tmp_path / "model")
    (source / "golden.json").unlink()
    written = export_classifier(str(source), tmp_path / "classifier")
    assert written.difference < 1e-4
    assert not (source / "golden.json").exists()


def test_a_classifier_of_which_nothing_can_be_compared_is_not_right(exports, tmp_path):
    from golden_exports import change_json

    source = copied(exports["llm"], tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):  # an older export: texts can spell its control tokens
        (source / name).write_text((source / name).read_text().replace("\ufdd0", ""))
    change_json(
        source / "golden.json", lambda content: [row.update(control_tokens=True) for row in content["rows"]] and None
    )
    written = export_classifier(str(source), tmp_path / "classifier")
    assert not written.is_right
    assert "not compared" in written.lines[0]


def test_a_classifier_adds_no_second_bos(exports, tmp_path):
    from golden_exports import begin_with_cls, change_json
    from transformers import AutoTokenizer

    from recipes.serving.classifier_twin import adds_nothing

    folder = copied(exports["decoder"], tmp_path / "tokenizer")
    change_json(folder / "tokenizer.json", begin_with_cls)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bare = tokenizer("a red apple", add_special_tokens=False).input_ids
    assert tokenizer("a red apple").input_ids != bare
    assert adds_nothing(tokenizer)("a red apple").input_ids == bare


def test_golden_texts_are_added_to_an_export_without_them(exports, tmp_path, capsys):
    for kind in ("lora", "llm", "cross_encoder"):
        folder = copied(exports[kind], tmp_path / kind)
        (folder / "golden.json").unlink()
        command.main([str(folder), "--golden"])
        assert "golden.json: written" in capsys.readouterr().out
        found, expected = read_golden(folder), read_golden(exports[kind])
        torch.testing.assert_close(found.values, expected.values, atol=1e-5, rtol=0)
        assert (found.files, found.max_length, found.prompts) == (expected.files, expected.max_length, expected.prompts)


def test_a_new_onnx_file_leaves_none_of_the_old_weights(onnx_copy, tmp_path):
    folder = copied(onnx_copy, tmp_path / "again")
    (folder / "onnx" / "model_qint8_arm64.onnx").write_bytes(b"old")
    (folder / "onnx" / "model_O2.onnx").write_bytes(b"not ours")
    assert {int8_file(), "model_qint8_arm64.onnx"} <= set(onnx_files(ModelFolder.read(folder)))
    onnx_export.write_onnx(folder, folder)
    assert onnx_files(ModelFolder.read(folder)) == ["model.onnx", "model_O2.onnx"]


def test_onnx_is_not_checked_without_files(exports):
    pytest.importorskip("onnxruntime")
    (finding,) = verify(exports["lora"], ["onnx"])
    assert (finding.status, "launch/export.py" in finding.causes[0]) == (UNAVAILABLE, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "--int8", "--golden"], "give both"),
        (["MODEL", "--golden", "--output", "x"], "leave --output out"),
        (["MODEL"], "required"),
        (["MODEL", "--onnx", "--golden"], "not allowed"),
        (["nowhere/x", "--golden"], "no such folder"),
        (["nowhere/x", "--onnx"], "no such folder|not found"),
        (["MODEL", "--sequence-classification"], "no LLM reranker"),
        (["MODEL", "--onnx", "--output", "MODEL"], "exists already"),
        (["MODEL", "--onnx", "--output", "MODEL/onnx_copy"], "inside the model"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, exports):
    arguments = [word.replace("MODEL", str(exports["lora"])) for word in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        command.main(arguments)
    assert "\n" not in str(caught.value)


def test_missing_packages_are_named(exports, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"--onnx needs onnxscript: pip install .*\[onnx\]"):
        export_onnx(str(exports["lora"]), None, int8=False)


def test_a_score_that_is_not_linear_has_no_classifier(tiny_models, tmp_path):
    options = {"head_dim": 8, "final_logit_softcapping": 3.0}
    from models.llm_reranker import LLMRerankerConfig

    start = tiny_models.write_tiny_causal(tmp_path / "start", architecture="gemma2", **options)
    LLMRerankerConfig(str(start), template="qwen3", max_length=256).build(0).export(tmp_path / "model")
    with pytest.raises(ValueError, match="no linear classifier"):
        export_classifier(str(tmp_path / "model"), None)
    assert not Path(f"{tmp_path}/model-classifier").exists()
