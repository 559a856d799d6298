"""Reranking: which queries and candidates count, the oracle, one rank = two."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from data.collection import Split
from engines.distributed.testing import run_ranks
from evaluation.evaluator import Prompts, judged_queries
from evaluation.reranking_evaluator import RerankingConfig
from inference.runner import ModuleRunner

CPU = torch.device("cpu")
DOCUMENTS = {f"d{i}": "x" * (i + 1) for i in range(6)}
SPLIT = Split(
    queries={"q1": "a", "q2": "b", "q3": "c", "unjudged": "e"},
    qrels={"q1": {"d3": 2, "d1": 1}, "q2": {"d5": 1}, "q3": {"d0": 1}},
    candidates={
        "q1": [("d0", 9.0), ("d1", 8.0), ("d3", 7.0), ("d4", 1.0)],
        "q2": [("d2", 5.0), ("d0", 4.0)],  # the relevant d5 was missed
        "q3": [],
        "unjudged": [("d0", 1.0)],
    },
)


class Tokenizer:
    """One token per character of the document; the query's first character before them."""

    padding = {"input_ids": 0}  # noqa: RUF012
    layout = "pairs"

    def __init__(self):
        self.pairs = []

    def __call__(self, queries, documents, query_prompt="", document_prompt=""):
        queries = [query_prompt + query for query in queries]
        documents = [document_prompt + document for document in documents]
        self.pairs += zip(queries, documents, strict=True)
        return {"input_ids": [[ord(q[0])] + [1] * len(d) for q, d in zip(queries, documents, strict=True)]}


class Longest(nn.Module):
    """Prefers long documents."""

    def forward(self, input_ids, attention_mask):
        return {"score": attention_mask.sum(1).float()}


def _evaluator(**options):
    tokenizer = Tokenizer()
    return RerankingConfig(**options).build(SPLIT, DOCUMENTS, tokenizer), tokenizer


def test_every_judged_query_counts_and_positives_are_not_forced_in():
    evaluator, tokenizer = _evaluator(metrics=["MRR@10", "recall@10"])
    result = evaluator.evaluate(ModuleRunner(Longest(), CPU))
    assert result.metrics.per_query["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}
    assert result.run["q1"] == {"d0": 2.0, "d1": 3.0, "d3": 5.0, "d4": 6.0}
    assert set(result.run["q2"]) == {"d2", "d0"}
    assert evaluator.first_stage.per_query["MRR@10"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}
    assert evaluator.candidate_recall == pytest.approx(1 / 3)
    assert evaluator.oracle.per_query["nDCG@10"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
    evaluator.evaluate(ModuleRunner(Longest(), CPU))
    assert len(tokenizer.pairs) == 6  # once, for both evaluations, and no pair of an unjudged query


class Similar(nn.Module):
    """Embeds a text as [1, tokens]: the longer two texts are, the larger their dot product."""

    similarity = "dot"

    def forward(self, input_ids, attention_mask):
        tokens = attention_mask.sum(1).float()
        return {"embedding": torch.stack([torch.ones_like(tokens), tokens], dim=1)}


class TextsTokenizer(Tokenizer):
    layout = "texts"

    def __call__(self, texts, role):
        self.pairs += texts
        return {"input_ids": [[1] * len(text) for text in texts]}


def test_a_bi_encoder_orders_the_same_candidates_by_similarity():
    tokenizer = TextsTokenizer()
    evaluator = RerankingConfig(depth=3).build(SPLIT, DOCUMENTS, tokenizer)
    result = evaluator.evaluate(ModuleRunner(Similar(), CPU))
    assert result.run == {"q1": {"d0": 2.0, "d1": 3.0, "d3": 5.0}, "q2": {"d2": 4.0, "d0": 2.0}, "q3": {}}
    assert sorted(tokenizer.pairs) == sorted(["a", "b", "c", "x", "xx", "xxx", "xxxx"])  # every text once
    model = Similar()
    model.similarity = "cosine"
    assert evaluator.evaluate(ModuleRunner(model, CPU)).run["q1"]["d0"] == pytest.approx(1.0)


def test_prompts_stand_before_the_texts_a_querys_own_before_the_data_sets():
    split = Split(SPLIT.queries, SPLIT.qrels, SPLIT.candidates, prompts={"q2": "own "})
    tokenizer = Tokenizer()
    evaluator = RerankingConfig(depth=1).build(split, DOCUMENTS, tokenizer, prompts=Prompts("Q: ", "D: "))
    evaluator.evaluate(ModuleRunner(Longest(), CPU))
    assert tokenizer.pairs == [("Q: a", "D: x"), ("own b", "D: xxx")]


def test_depth_limits_model_and_first_stage_alike():
    evaluator, _ = _evaluator(depth=2)
    assert evaluator.first_stage_run["q1"] == {"d0": 9.0, "d1": 8.0}
    assert evaluator.candidate_recall == pytest.approx(1 / 6)
    assert evaluator.evaluate(ModuleRunner(Longest(), CPU)).metrics["MRR@10"] == pytest.approx(1 / 3)


def test_a_depth_that_the_first_stage_does_not_reach_is_said_once(caplog):
    documents = {f"d{i}": "x" for i in range(50)}
    for _ in range(2):
        RerankingConfig(depth=41).build(SPLIT, documents, Tokenizer())
    RerankingConfig(depth=4).build(SPLIT, documents, Tokenizer())
    assert [record.getMessage() for record in caplog.records] == [
        "eval.depth=41: the first stage gives at most 4 candidates to rerank; raise data.candidates.depth (or "
        "give a run that is deeper), unless no more documents share a word with a query"
    ]


def test_the_missed_positives_can_be_appended_for_an_upper_bound():
    evaluator, _ = _evaluator(always_rerank_positives=True)
    assert evaluator.candidate_recall == 1.0
    assert list(evaluator.first_stage_run["q2"].items()) == [("d2", 5.0), ("d0", 4.0), ("d5", 3.0)]
    assert evaluator.first_stage_run["q3"] == {"d0": -1.0}


def test_the_sample_of_queries_depends_on_their_ids_alone():
    queries = {f"q{i}": "text" for i in range(50)}
    split = Split(queries, {query: {"d0": 1} for query in queries}, {})
    shuffled = Split(dict(reversed(queries.items())), split.qrels, {})
    few, more = judged_queries(split, 10), judged_queries(split, 20)
    assert len(few) == 10
    assert set(few) == set(judged_queries(shuffled, 10)) < set(more)
    assert list(more) == [query for query in queries if query in more]
    assert judged_queries(split, None) == judged_queries(split, 99) == queries


def test_dev_and_test_have_their_own_limits():
    config = RerankingConfig(max_queries=2, dev_max_queries=1, always_rerank_positives=True)
    assert len(config.build(SPLIT, DOCUMENTS, Tokenizer()).queries) == 2
    dev = Split({"q1": "a", "q2": "b"}, {"q1": {"d1": 1}, "q2": {"d2": 1}}, SPLIT.candidates)
    assert len(config.build(dev, DOCUMENTS, Tokenizer(), dev=True).queries) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "ndgc@10"}, "did you mean nDCG@10"),
        ({"metrics": ["MAP", "recal@10"]}, "did you mean recall@10"),
        ({"depth": 0}, "eval.depth must be at least 1, got 0"),
        ({"max_queries": 0}, "eval.max_queries"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=message):
        RerankingConfig(**options)


def test_names_of_metrics_are_made_canonical_and_the_chosen_one_is_measured():
    config = RerankingConfig(metric="mrr@3", metrics=["map", "MRR@3"])
    assert (config.metric, config.metrics) == ("MRR@3", ["MRR@3", "MAP"])


def test_the_configuration_file_states_every_field_with_its_default():
    file = Path(__file__).parents[2] / "conf" / "eval" / "reranking.yaml"
    stated = yaml.safe_load(file.read_text())
    assert stated.pop("_target_") == "evaluation.reranking_evaluator.RerankingConfig"
    assert stated == asdict(RerankingConfig())


def test_no_candidates_at_all_is_refused():
    with pytest.raises(ValueError, match="no candidates to rerank for any of the 3 judged queries"):
        RerankingConfig().build(Split(SPLIT.queries, SPLIT.qrels, {}), DOCUMENTS, Tokenizer())


def test_candidates_without_a_relevant_document_are_said(caplog):
    missed = Split({"q2": "b"}, {"q2": {"d5": 1}}, SPLIT.candidates)
    RerankingConfig(depth=2).build(missed, DOCUMENTS, Tokenizer())
    assert [record.getMessage() for record in caplog.records] == [
        "none of the candidates of 1 queries (q2 ...) is judged relevant: every metric will be 0"
    ]


def _evaluate_on_a_rank() -> tuple[dict[str, float], dict[str, dict[str, float]], int]:
    evaluator, tokenizer = _evaluator(token_budget=7)
    result = evaluator.evaluate(ModuleRunner(Longest(), CPU))
    return result.metrics.mean, result.run, len(tokenizer.pairs)


def test_two_ranks_agree_with_one_and_share_the_tokenising():
    mean, run, pairs = _evaluate_on_a_rank()
    results = run_ranks(_evaluate_on_a_rank, 2)
    assert [result[:2] for result in results] == [(mean, run), (mean, run)]
    assert [result[2] for result in results] == [4, 2], "whole lists, each on one rank"
    assert pairs == 6
