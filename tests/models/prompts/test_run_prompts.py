"""The prompts of a run in words, and merged with those that a model has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.bi_encoder import BiEncoderConfig
from models.capabilities import ModelOptions
from models.cross_encoder import CrossEncoder, CrossEncoderConfig
from models.llm_reranker import LLMReranker, LLMRerankerConfig
from models.prompts.run_prompts import NamedPrompt, RunPrompts, free_name, merge_prompts
from models.prompts.template import PromptTemplate

PAIRS = NamedPrompt("pairs", "pairs: ", "pairs")
TITLES = NamedPrompt("pairs_document", "title: ", "pairs", "document")


def test_a_saved_prompt_whose_name_is_taken_gets_another() -> None:
    saved = {"query": "q: ", "pairs": "earlier: ", "other": "o: "}
    merged = merge_prompts(saved, {"pairs": "pairs: "}, {"query": "find: "})
    assert merged == {"query": "find: ", "pairs": "pairs: ", "other": "o: ", "pairs_2": "earlier: "}
    assert merge_prompts(merged, {"pairs": "pairs: "}, {"query": "find: "}) == merged, "a second stage changes nothing"
    assert free_name("a", {"a", "a_2"}) == "a_3"


def test_a_source_without_a_prompt_keeps_the_one_that_the_model_had(tiny_bert_dir: Path) -> None:
    model = BiEncoderConfig(str(tiny_bert_dir), prompts={"query": "q: ", "document": "d: "}).build(0)
    named = (NamedPrompt("pairs", None, "pairs"), NamedPrompt("pairs_document", None, "pairs", "document"))
    model.adopt_prompts(RunPrompts("find: ", "title: ", named))
    expected = {"query": "find: ", "document": "title: ", "pairs": "q: ", "pairs_document": "d: "}
    assert model.tokenizer.prompts == expected


def test_a_reranker_s_prompts_are_read_back(tiny_reranker_dir: Path, tmp_path: Path) -> None:
    model = CrossEncoderConfig(str(tiny_reranker_dir), max_length=48).build(0)
    model.adopt_prompts(RunPrompts("find: ", "title: ", (PAIRS,)))
    model.export(tmp_path / "export")
    again = CrossEncoder.load(tmp_path / "export").tokenizer
    assert again.prompts == {"query": "find: ", "pairs": "pairs: "}
    plain = model.tokenizer
    assert again.encode_list("x", ["y"]) == plain(["x"], ["y"], "find: ", "title: ") != plain(["x"], ["y"], "", "")
    card = (tmp_path / "export" / "README.md").read_text()
    assert "- pairs: `'pairs: '`" in card
    assert "It was trained with `'title: '` before every document" in card
    lost = CrossEncoderConfig(str(tmp_path / "export")).lost_prompts(RunPrompts())
    assert lost == ["data.document_prompt='title: '"], "going on from it loses the prompt again"


def test_instructions_are_read_back(tiny_causal_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=256).build(0)
    model.adopt_prompts(RunPrompts("Find it.", None, (PAIRS,)))
    model.export(tmp_path / "export")
    saved = json.loads((tmp_path / "export" / "config_sentence_transformers.json").read_text())
    assert saved["prompts"] == {"pairs": "pairs: ", "query": "Find it."}
    assert LLMReranker.load(tmp_path / "export").tokenizer.prompts == saved["prompts"]
    assert not caplog.messages
    options = LLMRerankerConfig(str(tmp_path / "export"), template="qwen3", max_length=256)
    options.build(0)
    assert "model.template replaces the prompt that" in caplog.text
    caplog.clear()
    assert options.starting_from(tmp_path / "export").build(0).tokenizer.prompt_template.instruction == "Find it."
    assert not caplog.messages


def test_what_each_kind_would_lose(tiny_bert_dir: Path, tiny_causal_dir: Path) -> None:
    embedder, reranker = BiEncoderConfig(str(tiny_bert_dir)), CrossEncoderConfig(str(tiny_bert_dir))
    llm = LLMRerankerConfig(str(tiny_causal_dir), template="qwen3")
    prompts = RunPrompts("find: ", "title: ", (PAIRS, TITLES))
    assert embedder.lost_prompts(prompts) == []
    assert reranker.lost_prompts(prompts) == ["data.document_prompt='title: '"]
    assert llm.lost_prompts(prompts) == []
    assert reranker.lost_prompts(RunPrompts(named=(PAIRS, TITLES))) == ["document_prompt='title: ' of pairs"]
    assert llm.lost_prompts(RunPrompts(named=(TITLES,))) == ["document_prompt='title: ' of pairs"]
    uninstructed = RunPrompts(named=(NamedPrompt("prompt", "", "some rows"),))
    assert llm.lost_prompts(uninstructed) == ["query_prompt='' of some rows"]
    assert reranker.lost_prompts(uninstructed) == []
    assert embedder.lost_prompts(RunPrompts(unnamed=3)) == [
        "3 more prompts of rows (the most frequent 1,000 get a name)"
    ]
    assert ModelOptions.lost_prompts(embedder, prompts) == [
        "data.query_prompt='find: '",
        "query_prompt='pairs: ' of pairs",
        "data.document_prompt='title: '",
    ]


def test_an_instruction_without_a_slot_is_refused_before_weights_are_loaded(tiny_causal_dir: Path) -> None:
    template = PromptTemplate(pieces=["{query} {document}"], true_answer="yes", false_answer="no")
    with pytest.raises(ValueError, match=r"the model's prompt template has no \{instruction\}"):
        LLMRerankerConfig(str(tiny_causal_dir), template=template).lost_prompts(RunPrompts(named=(PAIRS,)))
