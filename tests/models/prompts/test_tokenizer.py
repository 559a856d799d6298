"""Prompts as token ids: mixedbread's and Qwen's, lengths that hold, truncation that is counted."""

from __future__ import annotations

import pickle
import random

import pytest
from llm_rerankers import DOCUMENTS, QUERIES
from transformers import AutoTokenizer

from models.prompts.template import MXBAI, MXBAI_JOINED, QWEN3, PromptTemplate
from models.prompts.tokenizer import PromptTokenizer

OWN = PromptTemplate(
    pieces=["{instruction}Query: {query}\nDocument: {document}.\nRelevant (yes or no):\n"],
    true_answer="yes",
    false_answer="no",
    instruction_format="Task: {instruction}\n",
)
SECOND = PromptTemplate(pieces=["document: {document}.", "\nquery: {query}\n"], true_answer="1", false_answer="0")
ANY = {"mxbai": MXBAI, "mxbai_joined": MXBAI_JOINED, "qwen3": QWEN3, "own": OWN, "document first": SECOND}


@pytest.fixture(scope="module")
def own_tokenizer(tiny_causal_dir):
    return AutoTokenizer.from_pretrained(tiny_causal_dir)


def make(tokenizer, template: PromptTemplate, max_length: int = 256, **options) -> PromptTokenizer:
    return PromptTokenizer(tokenizer, max_length, template=template, **options)


def mxbai_rows(tokenizer, queries: list[str], documents: list[str], instruction: str | None) -> list[list[int]]:
    """How mxbai_rerank_v2.py joins its parts (without its padding and cutting)."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    prefix = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
    )
    rows = []
    for query, document in zip(queries, documents, strict=True):
        query = f"query: {query}"
        if instruction:
            query = f"instruction: {instruction}\n{query}"
        middle = ids(query) + ids("\n") + ids(f"document: {document}")
        rows.append(ids(prefix) + middle + ids("\n") + ids(task) + ids("<|im_end|>\n<|im_start|>assistant\n"))
    return rows


@pytest.mark.parametrize("instruction", [None, "find a fruit."])
def test_mxbai_is_joined_as_mixedbread_does(own_tokenizer, instruction):
    found = make(own_tokenizer, MXBAI_JOINED, 2048)(QUERIES, DOCUMENTS, instruction)
    assert found["input_ids"] == mxbai_rows(own_tokenizer, QUERIES, DOCUMENTS, instruction)
    assert found["truncated"] == [[0, 0]] * 4
    texts = make(own_tokenizer, MXBAI, 2048)(QUERIES, DOCUMENTS, instruction)["input_ids"]
    ends = [query[-1] + document[-1] for query, document in zip(QUERIES, DOCUMENTS, strict=True)]
    alike = [not set(end) & set(".?") for end in ends]  # which the tokenizer joins with the line break after them
    assert [a == b for a, b in zip(texts, found["input_ids"], strict=True)] == alike


@pytest.mark.parametrize("instruction", [None, "find a fruit."])
def test_qwen3_is_joined_as_the_model_card_does(own_tokenizer, instruction):
    def ids(text: str) -> list[int]:
        return own_tokenizer(text, add_special_tokens=False).input_ids

    prefix = ids(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = ids("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    task = instruction or "Given a web search query, retrieve relevant passages that answer the query"
    pairs = [
        f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {document}"
        for query, document in zip(QUERIES, DOCUMENTS, strict=True)
    ]
    found = make(own_tokenizer, QWEN3, 2048)(QUERIES, DOCUMENTS, instruction)["input_ids"]
    assert found == [prefix + ids(pair) + suffix for pair in pairs]


@pytest.mark.parametrize("name", ANY)
def test_rows_keep_everything_but_the_end_of_long_texts(name, own_tokenizer):
    """Against rows without a limit: what is before and after the document stays, the document loses its last tokens."""
    draw = random.Random(0)
    words = ["what", "Python", "is.", "10", "a\n", "naïve", "red,", "日本", "🙂"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 150))) for _ in range(60)]
    queries, documents = [text[:20] for text in texts], texts[::-1]
    long, short = make(own_tokenizer, ANY[name], 2048), make(own_tokenizer, ANY[name], 256)
    whole, rows = long(queries, documents)["input_ids"], short(queries, documents)
    cut = [sum(lost) for lost in rows["truncated"]]
    assert 0 < sum(map(bool, cut)) < 60
    for full, row, lost in zip(whole, rows["input_ids"], cut, strict=True):
        assert len(row) == min(len(full), 256)
        assert lost == len(full) - len(row)
        kept = next(i for i in range(len(row) + 1) if i == len(row) or full[i] != row[i])
        assert row[kept:] == full[kept + lost :], "one run of tokens is missing"
        assert not lost or kept > 0


def test_a_long_query_leaves_room_for_the_document(own_tokenizer):
    tokenizer = make(own_tokenizer, QWEN3)
    row, lost = (tokenizer(["python " * 500], ["apple " * 500])[name][0] for name in ("input_ids", "truncated"))
    text = own_tokenizer.decode(row)
    assert len(row) == 256
    assert text.count("apple") >= 10
    assert text.count("python") > text.count("apple")
    assert lost[0] > 500
    capped = make(own_tokenizer, QWEN3, max_query_length=5)(["red " * 50], ["apple"])
    query = own_tokenizer.decode(capped["input_ids"][0]).split("<Query>: ")[1].split("\n")[0]
    assert len(own_tokenizer(query).input_ids) == 5
    assert capped["truncated"] == [[len(own_tokenizer("red " * 50).input_ids) - 5, 0]]


def test_the_instruction_is_never_dropped(own_tokenizer):
    tokenizer = make(own_tokenizer, QWEN3)
    long = "find documents about apples, " * 6
    text = own_tokenizer.decode(tokenizer(["q " * 300], ["d " * 300], long)["input_ids"][0])
    assert f"<Instruct>: {long}\n<Query>: q" in text
    with pytest.raises(ValueError, match=r"max_length=256: the prompt takes \d+ tokens with its instruction 'find"):
        tokenizer(["q"], ["d"], long * 4)
    with pytest.raises(ValueError, match=r"no \{instruction\}"):
        make(own_tokenizer, SECOND)(["q"], ["d"], "find")
    assert make(own_tokenizer, SECOND)(["q"], ["d"], "")["input_ids"]


def test_prompts_of_a_list_are_its_instruction_and_stand_before_its_documents(own_tokenizer):
    tokenizer = make(own_tokenizer, OWN)
    (row,) = tokenizer.encode_list("what", ["apple"], query_prompt="find", document_prompt="title: ")["input_ids"]
    assert own_tokenizer.decode(row) == ("Task: find\nQuery: what\nDocument: title: apple.\nRelevant (yes or no):\n")
    adopted = tokenizer.with_prompts("find", "title: ")
    assert adopted.encode_list("what", ["apple"])["input_ids"] == [row]
    assert adopted.encode_list("what", ["apple"], "find", "title: ")["input_ids"] == [row], "never twice"
    assert adopted.with_prompts(None, "title: ") == adopted
    assert adopted.fingerprint != tokenizer.fingerprint
    cut = tokenizer.encode_list("what", ["apple " * 500], document_prompt="title: ")["input_ids"][0]
    assert "Document: title: apple" in own_tokenizer.decode(cut)
    with pytest.raises(ValueError, match=r"the prompt takes 6\d\d tokens .* and 'title: title.*' before the document"):
        tokenizer.encode_list("what", ["apple"], document_prompt="title: " * 150)


def test_it_travels_to_workers(own_tokenizer):
    tokenizer = make(own_tokenizer, MXBAI_JOINED)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again(QUERIES, DOCUMENTS) == tokenizer(QUERIES, DOCUMENTS)
    assert again.fingerprint == tokenizer.fingerprint


def test_templates_that_cannot_be_are_refused():
    answers = {"true_answer": "yes", "false_answer": "no"}
    cases = [
        ({"pieces": ["{document}"]}, "hold {query} 0 times"),
        ({"pieces": ["{query}{document}", "{document}"]}, "hold {document} 2 times"),
        ({"pieces": ["{query}{document}{doc}"]}, "{doc} is no slot"),
        ({"pieces": ["{query}{docu", "ment}"]}, "hold {document} 0 times"),
        ({"pieces": "{query}{document}"}, "is one text: write it as a list"),
        ({"pieces": ["{instruction}{query}{document}{instruction}"]}, "more than once"),
        ({"pieces": ["{query}{document}"], "instruction": "x"}, "no {instruction} in the pieces"),
        ({"pieces": ["{query}{document}"], "instruction_format": "x"}, "instruction_format='x'"),
        ({"pieces": ["{query}{document}"], "false_answer": "yes"}, "must be two texts"),
    ]
    for options, match in cases:
        with pytest.raises(ValueError, match=match):
            PromptTemplate(**(answers | options))
    assert QWEN3.query_first
    assert MXBAI.query_first
    assert not SECOND.query_first
