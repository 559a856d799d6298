"""Rows put together from the tokens of single texts are those of the tokenizer, for every pair and every length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.prompts.tokenizer import PromptTokenizer
from models.token_rows import Counted, count_tokens, encode_whole, kept_tokens, row_frame
from models.tokenization import PairTokenizer, TextTokenizer

TEXTS = [
    "",
    "a",
    "what is python?",
    "naïve 東京 [SEP] </s> returns",
    "  value\n",
    "red " * 12,
    "a list of apple pear train rank document query to python value, returns the value of the list. " * 4,
]


def unigram(**options: Any) -> PreTrainedTokenizerFast:
    """T5's rules."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<s>", 0.0), ("▁", -3.0)]
    words = [(f"▁{word}", -2.0) for word in ("what", "is", "a", "red", "value", "list")]
    letters = [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz?."]
    backend = Tokenizer(models.Unigram([*special, *words, *letters], unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    end = [("</s>", 1)]
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=end)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **options)


def roberta() -> PreTrainedTokenizerFast:
    tokenizer = unigram()
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 3))
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    tiny_models.write_tokenizer(folder / "bert")
    tiny_models.write_causal_tokenizer(folder / "qwen")
    found = {name: AutoTokenizer.from_pretrained(folder / name) for name in ("bert", "qwen")}
    return found | {"t5": unigram(), "roberta": roberta()}


@pytest.mark.parametrize("name", ["bert", "qwen", "t5", "roberta"])
def test_rows_are_those_of_the_tokenizer(name: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[name]
    counted = count_tokens(tokenizer, TEXTS)
    for num_texts in (1, 2):
        frame = row_frame(tokenizer, num_texts)
        assert frame is not None
        sides = list(zip(*product(range(len(TEXTS)), repeat=num_texts), strict=True))
        for max_length in range(frame.num_special + 1, frame.num_special + 30, 3):
            expected = encode_whole(tokenizer, [[TEXTS[i] for i in side] for side in sides], max_length)
            rows = frame.rows(*([counted[i] for i in side] for side in sides), max_length=max_length)
            assert rows.keys() == {*expected.data, "truncated"}
            for feature, values in expected.data.items():
                assert rows[feature] == values, (feature, max_length)
            for index, lost in enumerate(rows["truncated"]):
                for side in range(num_texts):
                    kept = expected.sequence_ids(index).count(side)
                    assert lost[side] == counted[sides[side][index]][1] - kept


def test_a_tokenizer_that_cuts_at_the_beginning_makes_its_own_rows() -> None:
    left = unigram(truncation_side="left")
    assert row_frame(left, 1) is None
    pairs = PairTokenizer(left, max_length=9)
    rows = pairs(["a red list"] * 2, ["value", "a list " * 5])
    assert rows["input_ids"] == encode_whole(left, [["a red list"] * 2, ["value", "a list " * 5]], 9)["input_ids"]
    assert rows["truncated"][0] == [0, 0] != rows["truncated"][1]


def test_the_longer_text_is_cut_first() -> None:
    assert kept_tokens([3, 4], 7) == [3, 4]
    assert kept_tokens([3, 9], 7) == [3, 4]
    assert kept_tokens([9, 3], 7) == [4, 3]
    assert kept_tokens([8, 9], 7) == [3, 4]
    assert kept_tokens([9, 8], 7) == [4, 3]
    assert kept_tokens([5], 4) == [4]
    assert kept_tokens([5], 6) == [5]


class Memory:
    """A memory in a dictionary."""

    def __init__(self) -> None:
        self.known: dict[str, Counted] = {}
        self.tokenised: list[str] = []

    def __call__(self, tokenize: Callable[[list[str]], list[Counted]], texts: list[str]) -> list[Counted]:
        missing = [text for text in texts if text not in self.known]
        self.tokenised += missing
        self.known |= dict(zip(missing, tokenize(missing), strict=True))
        return [self.known[text] for text in texts]


def check_memory(tokenizer: Any, queries: list[str], documents: list[str]) -> Memory:
    memory = Memory()
    remembering = tokenizer.with_memory(memory)
    for _ in range(2):
        for query in queries:
            for prompts in ({}, {"query_prompt": "what is "}):
                found = remembering.encode_list(query, documents, **prompts)
                assert found == tokenizer.encode_list(query, documents, **prompts)
    return memory


def test_pairs_and_texts_are_joined_from_memory(tiny_reranker_dir: Path) -> None:
    pairs = CrossEncoderConfig(str(tiny_reranker_dir), max_length=16).build(0).tokenizer
    queries = ["what is a rank", "red " * 20]
    memory = check_memory(pairs, queries, TEXTS)
    assert len(memory.tokenised) == 2 * len(queries) + len(TEXTS), "a query with each prompt, and each document once"
    texts = TextTokenizer(pairs.tokenizer, 16, {"document": "a list "}, include_prompt=False, marks_queries=True)
    assert len(check_memory(texts, queries, TEXTS).tokenised) == 2 * len(queries) + len(TEXTS)


def test_prompts_of_a_language_model_are_made_from_memory(tiny_causal_dir: Path) -> None:
    options = LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=256)
    prompts = options.build(0).tokenizer
    assert isinstance(prompts, PromptTokenizer)
    short = TEXTS[:5]
    memory = check_memory(prompts, ["what is python?", "a"], short)
    assert sum(text in each for each in set(memory.tokenised) for text in short[2:]) < len(memory.tokenised)
    assert len(memory.tokenised) == len(set(memory.tokenised)), "in the second epoch nothing is tokenised"


def test_the_key_of_a_memory_is_what_the_tokens_depend_on(tiny_reranker_dir: Path) -> None:
    pairs = CrossEncoderConfig(str(tiny_reranker_dir), max_length=16).build(0).tokenizer
    key = pairs.token_key
    pairs(["what"], ["a list"])  # a call leaves its length in the tokenizer
    assert pairs.token_key == key
    assert replace(pairs, prompts={"query": "list: "}).token_key == key, "a prompt is part of a text"
    assert replace(pairs, max_length=17).token_key != key
    assert replace(pairs, split_special_tokens=False).token_key != key
