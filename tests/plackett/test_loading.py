"""`plackett.load` recognises the kind of a model from its folder, and its errors name its arguments."""

from __future__ import annotations

import pytest

import plackett
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.lora import LoRAConfig
from plackett.arguments import ARGUMENTS


@pytest.fixture(scope="module")
def folders(tiny_bert_dir, tiny_reranker_dir, tiny_causal_dir, tiny_models, tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    lora = LoRAConfig(r=2)
    found = {
        "plain_encoder": tiny_bert_dir,
        "plain_classifier": tiny_reranker_dir,
        "plain_causal": tiny_causal_dir,
        "embedder": root / "embedder",
        "embedder_adapter": root / "embedder_adapter",
        "reranker": root / "reranker",
        "reranker_adapter": root / "reranker_adapter",
        "llm": root / "llm",
        "llm_adapter": root / "llm_adapter",
        "decoder": tiny_models.write_tiny_decoder(root / "decoder"),
    }
    bert, causal = str(tiny_bert_dir), str(tiny_causal_dir)
    BiEncoderConfig(bert).build(0).export(found["embedder"])
    BiEncoderConfig(bert, lora=lora).build(0).export(found["embedder_adapter"], adapter_only=True)
    CrossEncoderConfig(bert).build(0).export(found["reranker"])
    CrossEncoderConfig(bert, lora=lora).build(0).export(found["reranker_adapter"], adapter_only=True)
    LLMRerankerConfig(causal, template="qwen3", max_length=300).build(0).export(found["llm"])
    llm = LLMRerankerConfig(causal, template="qwen3", max_length=300, lora=lora).build(0)
    llm.export(found["llm_adapter"], adapter_only=True)
    return found


@pytest.mark.parametrize("name", ["plain_encoder", "embedder", "embedder_adapter", "decoder"])
def test_embedders_are_recognised(folders, name):
    assert plackett.load(folders[name]).encode(["apple"], role="query").shape == (1, 32)


@pytest.mark.parametrize("name", ["plain_classifier", "reranker", "reranker_adapter", "llm", "llm_adapter"])
def test_rerankers_are_recognised(folders, name):
    assert plackett.load(str(folders[name])).predict([("apple", "pear")]).shape == (1,)


def test_a_plain_encoder_is_warned_of(folders, caplog):
    plackett.load(folders["plain_encoder"])
    assert "does not say how it embeds texts: mean pooling and cosine similarity are taken" in caplog.text
    caplog.clear()
    plackett.load(folders["embedder"])
    assert caplog.text == ""


def test_a_classifier_that_embeds_is_warned_of(folders, caplog):
    plackett.load(folders["plain_classifier"], kind="embedder")
    assert "is a sequence classifier: its score head is left out, and texts are embedded by mean pooling" in caplog.text


def test_options_reach_the_model(folders):
    assert plackett.load(folders["reranker"], max_length=16).max_length == 16
    assert plackett.load(folders["embedder"], max_length=16).max_length == 16
    assert plackett.load(folders["plain_causal"], template="mxbai", max_length=500).max_length == 500
    for name in ("reranker", "embedder"):
        assert plackett.load(folders[name]).model.tokenizer.split_special_tokens
        assert not plackett.load(folders[name], special_tokens=True).model.tokenizer.split_special_tokens
    assert plackett.load(folders["embedder"], device="cpu").prompts == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("reranker", {"max_length": 4000}, "^max_length=4000: "),
        ("embedder", {"max_length": 4000}, "^max_length=4000: "),
        (
            "plain_causal",
            {},
            "name the template that it was trained with, template=NAME, one of",
        ),
        ("plain_causal", {"template": "mxbai", "max_length": 40}, "^max_length=40: the prompt takes "),
        ("embedder", {"kind": "reranker"}, "has no score head"),
        ("reranker", {"kind": "embedder"}, "is a CrossEncoder, not an embedding model"),
        ("embedder", {"kind": "encoder"}, "kind='encoder': choose None"),
        ("embedder", {"kind": "embedder", "template": "qwen3"}, "template='qwen3' is of a reranker"),
        ("plain_causal", {"template": "qwen"}, "template=qwen: choose"),
    ],
)
def test_errors_name_the_arguments_in_one_line(folders, name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        plackett.load(folders[name], **options)
    assert "\n" not in str(caught.value)
    assert "model.max_length" not in str(caught.value)


def test_a_missing_folder_is_named():
    with pytest.raises(FileNotFoundError, match=r"model \./nowhere: no such folder"):
        plackett.load("./nowhere")


@pytest.mark.parametrize("words", list(ARGUMENTS))
def test_words_that_are_replaced_are_those_of_rerank(words):
    """A test of launch/rerank.py finds them in the code."""
    from launch.rerank import OPTION_NAMES

    assert words in OPTION_NAMES
