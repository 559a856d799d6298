"""mixedbread's published example runs with another import, and scores are those of its package's prompt."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import plackett

QUERY = "Who wrote 'To Kill a Mockingbird'?"
DOCUMENTS = [
    "'To Kill a Mockingbird' is a novel by Harper Lee published in 1960.",
    "The novel 'Moby-Dick' was written by Herman Melville.",
    "Harper Lee was born in 1926 in Monroeville, Alabama",
    "",
    "哈珀·李写了这本书。",
]
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 "
    "for not relevant, 1 for relevant).\nRelevance:"
)


@pytest.fixture(scope="module")
def folder(tiny_models, tmp_path_factory):
    """A model of mxbai-rerank-v2's shape: a Qwen2 language model with tied embeddings, and no template of its own."""
    return str(tiny_models.write_tiny_causal(tmp_path_factory.mktemp("mxbai"), max_position_embeddings=1024))


def published_scores(folder: str, instruction: str | None) -> list[float]:
    """The scores of `mxbai_rerank` 0.1.6: parts of the prompt tokenised one by one, logit of "1" minus that of "0"."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    query = f"instruction: {instruction}\nquery: {QUERY}" if instruction else f"query: {QUERY}"
    prefix = ids(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n") + ids(query)
    suffix = ids("\n") + ids(TASK) + ids("<|im_end|>\n<|im_start|>assistant\n")
    scores = []
    for document in DOCUMENTS:
        row = [*prefix, *ids("\n"), *ids(f"document: {document}"), *suffix]
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0, -1]
        scores.append(float(logits[ids("1")[0]] - logits[ids("0")[0]]))
    return scores


@pytest.mark.parametrize("instruction", [None, "Figure out the best code snippet."])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_scores_are_those_of_the_published_prompt(folder, instruction, batch_size):
    model = plackett.MxbaiRerankV2(folder)
    results = model.rank(QUERY, DOCUMENTS, instruction=instruction, batch_size=batch_size)
    expected = published_scores(folder, instruction)
    assert max(expected) - min(expected) > 0.1
    assert [row.score for row in sorted(results, key=lambda row: row.index)] == pytest.approx(expected, abs=1e-4)
    assert [row.index for row in results] == sorted(range(5), key=lambda index: -expected[index])


def test_the_published_example_runs_with_another_import(folder, capsys):
    """The card of mxbai-rerank-base-v2 and the README of its package; only the import and the place of the model
    differ."""
    from plackett import MxbaiRerankV2

    model = MxbaiRerankV2(folder)
    query, documents = QUERY, DOCUMENTS[:3]
    results = model.rank(query, documents, return_documents=True, top_k=3)
    print(results)
    assert len(results) == 3
    assert {type(row.score) for row in results} == {float}
    assert [row.document for row in results] == [documents[row.index] for row in results]
    assert "RankedDocument(index=" in capsys.readouterr().out
    reranker = MxbaiRerankV2(folder, max_length=512)
    assert reranker.max_length == 512
    assert [row.index for row in reranker.rank(query=query, documents=documents)] == [row.index for row in results]


def test_the_default_length_is_the_published_one_or_what_the_model_reads(folder, tiny_models, tmp_path):
    assert plackett.MxbaiRerankV2(folder).max_length == 1024
    long = tiny_models.write_tiny_causal(tmp_path, max_position_embeddings=32768)
    assert plackett.MxbaiRerankV2(str(long)).max_length == 8192


def test_errors_name_the_arguments(folder):
    with pytest.raises(ValueError, match=r"^max_length=40: the prompt takes "):
        plackett.MxbaiRerankV2(folder, max_length=40)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        plackett.MxbaiRerankV2("./nowhere")


def test_load_gives_the_class_itself(folder):
    model = plackett.MxbaiRerankV2.load(folder, special_tokens=True)
    assert type(model) is plackett.MxbaiRerankV2
    assert model.max_length == 1024
    assert not model.model.tokenizer.split_special_tokens
    expected = plackett.MxbaiRerankV2(folder, max_length=512).predict([(QUERY, DOCUMENTS[0])])
    found = plackett.MxbaiRerankV2.load(folder, max_length=512, template="mxbai_joined").predict(
        [(QUERY, DOCUMENTS[0])]
    )
    assert found.tolist() == expected.tolist()
    with pytest.raises(ValueError, match=r"template='qwen3': MxbaiRerankV2 has its own, 'mxbai_joined'"):
        plackett.MxbaiRerankV2.load(folder, template="qwen3")
