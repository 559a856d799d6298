"""Which kind of model a folder is, by what it declares."""

from __future__ import annotations

import pytest

from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.loading.kind import options_for


def test_a_plain_encoder_embeds_and_a_classifier_scores(tiny_bert_dir, tiny_reranker_dir, caplog):
    assert options_for(str(tiny_bert_dir)) == BiEncoderConfig(str(tiny_bert_dir))
    assert "mean pooling and cosine similarity are taken" in caplog.text
    caplog.clear()
    assert options_for(str(tiny_reranker_dir)) == CrossEncoderConfig(str(tiny_reranker_dir))
    assert not caplog.text


def test_exports_are_what_they_were_trained_as(tiny_bert_dir, tiny_reranker_dir, tiny_causal_dir, tmp_path):
    kinds = {
        "embedder": BiEncoderConfig(str(tiny_bert_dir)),
        "reranker": CrossEncoderConfig(str(tiny_reranker_dir)),
        "llm": LLMRerankerConfig(str(tiny_causal_dir), template="qwen3"),
    }
    for name, options in kinds.items():
        options.build(0).export(tmp_path / name)
        assert type(options_for(str(tmp_path / name))) is type(options)


def test_a_language_model_says_nothing_of_how_it_ranks(tiny_causal_dir):
    with pytest.raises(ValueError, match=r"plain language model.*model@of=bi_encoder or model@of=llm_reranker"):
        options_for(str(tiny_causal_dir), "model@of")


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"\./nowhere"):
        options_for("./nowhere")
