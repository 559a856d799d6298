"""The retrieval evaluator: what is searched, dimensions, the corpus of dev, prompts, one rank = two, the oracle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from data.collection import Collection, Split
from data.sampling.mixture import Mixture
from engines.distributed.testing import run_ranks
from evaluation.evaluator import Prompts
from evaluation.metrics import measure
from evaluation.retrieval_evaluator import RetrievalConfig, overlaps, reduced_corpus
from inference import vector_search
from inference.quantize import dequantize, quantize
from inference.quantize import ranges_of as stored_ranges
from inference.runner import ModuleRunner
from inference.search import BlockSearch
from inference.stored_form import StoredForm
from models.int8_ranges import Int8Ranges

CPU = torch.device("cpu")
DOCUMENTS = {f"d{i}": text for i, text in enumerate("ab abb abbb bbc ccc cca acb bca".split())}  # noqa: SIM905
SPLIT = Split(
    queries={"q1": "abb", "q2": "cc", "q3": "bc", "unjudged": "a"},
    qrels={"q1": {"d1": 2, "d0": 1}, "q2": {"d4": 1, "d0": 0}, "q3": {"d7": 1}},
    candidates={
        "q1": [("d1", 9.0), ("d2", 8.0), ("d0", 7.0)],
        "q2": [("d5", 5.0), ("d4", 4.0)],
        "q3": [],
        "unjudged": [],
    },
)


class Tokenizer:
    """One token per character; queries end with a 7."""

    padding = {"input_ids": 0}  # noqa: RUF012
    layout = "texts"

    def __init__(self):
        self.texts = []

    def __call__(self, texts, role, prompt=""):
        self.texts += [(prompt + text, role) for text in texts]
        end = [7] if role == "query" else []
        return {"input_ids": [[ord(character) - ord("a") + 1 for character in prompt + text] + end for text in texts]}


class Counts(nn.Module):
    """The embedding: how often each of the letters a, b, c, d stands in the text."""

    similarity = "cosine"

    def forward(self, input_ids, attention_mask):
        counts = [((input_ids == token) & (attention_mask == 1)).sum(1) for token in (1, 2, 3, 4)]
        return {"embedding": torch.stack(counts, dim=1).float()}


def _evaluator(split=SPLIT, prompts=None, **options):
    tokenizer = Tokenizer()
    return RetrievalConfig(**options).build(split, DOCUMENTS, tokenizer, prompts=prompts), tokenizer


def test_the_whole_corpus_is_searched_for_every_judged_query():
    evaluator, tokenizer = _evaluator(metrics=["MRR@10", "recall@1"])
    result = evaluator.evaluate(ModuleRunner(Counts(), CPU))
    assert {query: len(found) for query, found in result.run.items()} == {"q1": 8, "q2": 8, "q3": 8}
    assert result.run["q1"]["d1"] == pytest.approx(1.0)
    assert result.run["q2"]["d0"] == 0.0
    assert next(iter(result.run["q2"])) == "d4"
    assert result.metrics.per_query["recall@1"] == {"q1": 0.5, "q2": 1.0, "q3": 0.0}
    evaluator.evaluate(ModuleRunner(Counts(), CPU))
    assert sorted(tokenizer.texts) == sorted(  # once, for both evaluations
        [(text, "document") for text in DOCUMENTS.values()] + [(text, "query") for text in ("abb", "cc", "bc")]
    )


def test_the_first_stage_is_measured_beside_it_and_limits_nothing():
    evaluator, _ = _evaluator(metrics=["MRR@10"])
    assert evaluator.first_stage.per_query["MRR@10"] == {"q1": 1.0, "q2": 0.5, "q3": 0.0}
    assert evaluator.first_stage_run["q2"] == {"d5": 5.0, "d4": 4.0}
    assert evaluator.oracle.mean == {}
    assert evaluator.candidate_recall is None


def test_depth_limits_what_is_retrieved():
    evaluator, _ = _evaluator(depth=2, metrics=["recall@2"], metric="recall@2")
    assert [*evaluator.evaluate(ModuleRunner(Counts(), CPU)).run["q1"]] == ["d1", "d2"]


def test_cosine_or_dot_is_the_models_own():
    evaluator, _ = _evaluator()
    model = Counts()
    model.similarity = "dot"
    found = evaluator.evaluate(ModuleRunner(model, CPU)).run["q1"]
    assert found["d2"] == 7.0  # abbb . abb, the longest
    assert next(iter(found)) == "d2"
    assert next(iter(evaluator.evaluate(ModuleRunner(Counts(), CPU)).run["q1"])) == "d1"


def test_first_dimensions_are_measured_from_the_same_pass():
    evaluator, _ = _evaluator(metrics=["MRR@10"], dims=[2, 1])
    model = Counts()
    result = evaluator.evaluate(ModuleRunner(model, CPU))
    assert list(result.metrics.mean) == [
        *("nDCG@10", "MRR@10", "nDCG@10/dim2", "MRR@10/dim2", "nDCG@10/dim1", "MRR@10/dim1")
    ]
    # Each dimension alone, by brute force: cut, renormalise, compare.
    for dim in (2, 1):
        queries, documents = (_embeddings(texts, dim) for texts in (evaluator.queries, DOCUMENTS))
        run = {query: {document: float(a @ b) for document, b in documents.items()} for query, a in queries.items()}
        expected = measure(evaluator.qrels, run, ["nDCG@10"])
        assert result.metrics.mean[f"nDCG@10/dim{dim}"] == pytest.approx(expected.mean["nDCG@10"])
        assert result.metrics.per_query[f"nDCG@10/dim{dim}"] == pytest.approx(expected.per_query["nDCG@10"])
    with pytest.raises(ValueError, match=r"eval\.dims: 4 is not below the model's 4 dimensions"):
        _evaluator(dims=[2, 4])[0].evaluate(ModuleRunner(model, CPU))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("quantize_queries", [False, True])
def test_stored_precisions_are_measured_from_the_same_pass(own, quantize_queries):
    model = Counts()
    if own:
        model.int8_ranges = Int8Ranges({4: torch.tensor([[0.0] * 4, [0.5] * 4]), 9: torch.zeros(2, 9)})
    options = {"metrics": ["MRR@10"], "dims": [2], "precision": ["int8", "binary", "int8"]}
    evaluator, _ = _evaluator(**options, quantize_queries=quantize_queries)
    result = evaluator.evaluate(ModuleRunner(model, CPU))
    forms = ["", "/int8", "/binary", "/dim2", "/dim2/int8", "/dim2/binary"]
    measured = ["nDCG@10", "MRR@10"]
    assert list(result.metrics.mean) == [
        name + form for form in forms for name in (measured if form in ("", "/dim2") else [*measured, "overlap@10"])
    ]
    for form in forms[1:]:
        dim, precision = 2 if "dim2" in form else 4, form.rpartition("/")[2]
        queries, documents = (_embeddings(texts, dim) for texts in (evaluator.queries, DOCUMENTS))
        if precision in ("int8", "binary"):
            rows = torch.stack([*documents.values()]).numpy()
            ranges = np.array([[0.0] * 4, [0.5] * 4], dtype=np.float32) if own and dim == 4 else stored_ranges(rows)
            documents = _read_back(documents, precision, ranges)
            queries = _read_back(queries, precision, ranges) if quantize_queries else queries
        run = {query: {document: float(a @ b) for document, b in documents.items()} for query, a in queries.items()}
        expected = measure(evaluator.qrels, run, ["nDCG@10"])
        assert result.metrics.per_query[f"nDCG@10{form}"] == pytest.approx(expected.per_query["nDCG@10"])
    assert result.metrics.mean["overlap@10/int8"] == 1.0, "all eight documents are among the ten best"


def _read_back(vectors, precision, ranges):
    rows = torch.stack([*vectors.values()]).numpy()
    read = dequantize(quantize(rows, precision, ranges), precision, rows.shape[1], ranges)
    return dict(zip(vectors, torch.from_numpy(read), strict=True))


def test_overlap_is_the_share_of_the_ten_best():
    exact = {"q": {f"d{i}": -float(i) for i in range(20)}, "few": {"a": 1.0, "b": 0.0}, "none": {}}
    found = {"q": {f"d{i}": float(i % 12) for i in range(20)}, "few": {"b": 3.0, "a": 2.0}, "none": {}}
    best = {"d11", "d10", "d9", "d8", "d7", "d19", "d6", "d18", "d5", "d17", "d4", "d16"}
    shared = len({f"d{i}" for i in range(10)} & {*sorted(best, key=lambda name: -found["q"][name])[:10]})
    assert overlaps(exact, found) == {"q": shared / 10, "few": 1.0, "none": 0.0}


def test_ranges_of_a_corpus_of_several_blocks_are_those_of_documents_spread_over_it():
    model, rows = Counts(), torch.stack([*_embeddings(DOCUMENTS, 4).values()])
    evaluator, _ = _evaluator(precision=["int8"], document_block=3)
    embedded, ranges = evaluator._ranges(ModuleRunner(model, CPU), 4, 3)
    assert embedded is None
    assert np.allclose(ranges[StoredForm(None, "int8")].numpy(), stored_ranges(rows[[0, 2, 5]].numpy()))
    whole, ranges = _evaluator(precision=["int8"])[0]._ranges(ModuleRunner(model, CPU), 4, 16384)
    assert len(whole) == 8
    assert np.allclose(ranges[StoredForm(None, "int8")].numpy(), stored_ranges(rows.numpy()))


def test_precisions_without_a_meaning():
    with pytest.raises(ValueError, match=r"eval\.precision=int4: choose fp32, fp16, int8, binary"):
        _evaluator(precision=["int4"])
    with pytest.raises(ValueError, match=r"eval\.quantize_queries=true: eval\.precision has only fp32"):
        _evaluator(quantize_queries=True)


def _embeddings(texts, dim):
    counts = {
        name: torch.tensor([float(text.count(letter)) for letter in "abcd"[:dim]]) for name, text in texts.items()
    }
    return {name: nn.functional.normalize(vector, dim=0) for name, vector in counts.items()}


def test_dev_searches_the_judged_then_candidates_then_others():
    candidates = {"q1": {"d1": 9.0, "d2": 8.0, "d3": 7.0}, "q2": {"d5": 5.0}}
    qrels = {"q1": {"d1": 2}, "q2": {"d4": 0}}
    kept = [list(reduced_corpus(DOCUMENTS, qrels, candidates, size)) for size in (1, 2, 3, 4, 5)]
    assert kept[:2] == [["d1", "d4"]] * 2  # all that is judged, whatever the number
    assert kept[2] == ["d1", "d4", "d5"]  # the first of q2 before the second of q1
    assert kept[3] == ["d1", "d2", "d4", "d5"]
    assert kept[4] == ["d1", "d2", "d3", "d4", "d5"]
    more = reduced_corpus(DOCUMENTS, qrels, candidates, 7)
    shuffled = reduced_corpus(dict(reversed(DOCUMENTS.items())), qrels, candidates, 7)
    assert len(more) == 7
    assert set(more) == set(shuffled) > set(kept[4])
    assert reduced_corpus(DOCUMENTS, qrels, candidates, 8) == reduced_corpus(DOCUMENTS, qrels, candidates, None)


def test_only_dev_is_reduced_and_its_first_stage_with_it():
    config = RetrievalConfig(dev_max_documents=4, dev_max_queries=2, max_queries=3)
    dev, test = (config.build(SPLIT, DOCUMENTS, Tokenizer(), dev=dev) for dev in (True, False))
    assert len(test.documents) == 8
    assert len(test.queries) == 3
    assert len(dev.documents) == 4
    assert len(dev.queries) == 2
    assert all(set(found) <= set(dev.documents) for found in dev.first_stage_run.values())
    assert all(set(found) == set(dev.documents) for found in dev.evaluate(ModuleRunner(Counts(), CPU)).run.values())


def test_prompts_stand_before_the_texts_a_querys_own_before_the_data_sets():
    split = Split(SPLIT.queries, SPLIT.qrels, SPLIT.candidates, prompts={"q2": "b"})
    evaluator, tokenizer = _evaluator(split, Prompts("a", "d"))
    evaluator.evaluate(ModuleRunner(Counts(), CPU))
    assert {text for text, role in tokenizer.texts if role == "query"} == {"aabb", "bcc", "abc"}
    assert {text for text, role in tokenizer.texts if role == "document"} == {"d" + text for text in DOCUMENTS.values()}
    assert evaluator.evaluate(ModuleRunner(Counts(), CPU)).run["q1"]["d1"] < 1.0


def test_a_mixture_has_the_prompts_of_the_collection_that_is_evaluated():
    one, other = (Collection(name, DOCUMENTS, {}, name, query_prompt=f"{name}: ") for name in ("one", "other"))
    assert Prompts.of(one) == Prompts("one: ")
    assert Prompts.of(Mixture({"one": one, "other": other}, {}, evaluated=other)) == Prompts("other: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "ndgc@10"}, "did you mean nDCG@10"),
        ({"dims": [64, 0]}, r"eval.dims=\[64, 0\]: each must be at least 1"),
        ({"depth": 50}, "eval.depth=50 documents are too few for recall@100"),
        ({"dev_max_documents": 0}, "eval.dev_max_documents must be at least 1, got 0"),
        ({"document_block": 0}, "eval.document_block must be at least 1"),
        ({"search": "annoy"}, "eval.search=annoy: choose exact or faiss"),
        ({"search": "inverted", "dims": [64]}, "eval.search=inverted stores the values that are not 0, as float32"),
        ({"search": "inverted", "precision": ["int8"]}, "leave out eval.dims and eval.precision"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=message) as error:
        RetrievalConfig(**options)
    assert "\n" not in str(error.value)


def test_the_configuration_file_states_every_field_with_its_default():
    stated = yaml.safe_load((Path(__file__).parents[2] / "conf" / "eval" / "retrieval.yaml").read_text())
    assert stated.pop("_target_") == "evaluation.retrieval_evaluator.RetrievalConfig"
    assert stated == asdict(RetrievalConfig())


@pytest.mark.parametrize("options", [{"dims": [2]}, {"precision": ["int8"]}])
def test_large_vectors_are_embedded_and_searched_few_at_once(monkeypatch, options):
    sizes = []
    add = BlockSearch.add

    def counted(self, documents):
        sizes.append(len(documents))
        add(self, documents)

    monkeypatch.setattr(BlockSearch, "add", counted)
    whole = _evaluator(**options)[0].evaluate(ModuleRunner(Counts(), CPU))
    assert sizes == [8, 8]
    sizes.clear()
    monkeypatch.setattr(vector_search, "VALUES", 3 * 4)  # of three documents
    found = _evaluator(**options)[0].evaluate(ModuleRunner(Counts(), CPU))
    assert sizes == [3, 3, 3, 3, 2, 2]
    assert found.run == whole.run
    assert found.index == whole.index


def _evaluate_on_a_rank() -> tuple[dict[str, float], dict[str, dict[str, float]], int]:
    evaluator, tokenizer = _evaluator(token_budget=9, dims=[2], query_block=2, document_block=3)
    result = evaluator.evaluate(ModuleRunner(Counts(), CPU))
    return result.metrics.mean, result.run, len(tokenizer.texts)


def test_two_ranks_agree_with_one_and_share_the_tokenising():
    mean, run, texts = _evaluate_on_a_rank()
    results = run_ranks(_evaluate_on_a_rank, 2)
    assert [result[:2] for result in results] == [(mean, run), (mean, run)]
    assert sum(result[2] for result in results) == texts == 11


def test_the_run_equals_sentence_transformers(tiny_bert_dir):
    """Its own loading, encoding and exact search of the same folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import semantic_search

    from models.bi_encoder import BiEncoderConfig

    words = "red green blue apple pear rank list".split()  # noqa: SIM905
    documents = {f"d{i}": " ".join(words[(i + j * j) % 7] for j in range(1 + i % 9)) + f" {i}" for i in range(40)}
    queries = {f"q{i}": f"what is {words[i]} {words[i - 2]}" for i in range(5)}
    split = Split(queries, {query: {"d0": 1} for query in queries}, {})
    model = BiEncoderConfig(name_or_path=str(tiny_bert_dir)).build(seed=0)
    evaluator = RetrievalConfig(dims=[8], token_budget=100, document_block=16).build(split, documents, model.tokenizer)
    oracle = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    for form, run in evaluator.retrieve(ModuleRunner(model, CPU)).items():
        oracle.truncate_dim = form.dim
        texts = (oracle.encode(list(part.values()), convert_to_tensor=True) for part in (queries, documents))
        for found, query in zip(semantic_search(*texts, top_k=40), queries, strict=True):
            expected = {f"d{hit['corpus_id']}": hit["score"] for hit in found}
            assert run[query] == pytest.approx(expected, abs=1e-5)
