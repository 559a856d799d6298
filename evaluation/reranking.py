"""Rerank the first stage's candidates of held-out queries and measure the order."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch

from data.collection import Split
from data.keys import stable_hash
from data.rows import TokenRows
from engines.process_group import is_main
from evaluation.metrics import Metrics, Run, measure, parse_metric
from evaluation.scoring import Forward, score_rows, tokenize_sharded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RerankingConfig:
    """How rerankers are measured; `metric` chooses the best checkpoint and the fusion weight, on dev."""

    metric: str = "nDCG@10"
    metrics: list[str] = field(default_factory=lambda: ["nDCG@10", "MRR@10", "MAP", "recall@10"])
    depth: int = 30
    max_queries: int | None = None
    dev_max_queries: int | None = 100
    token_budget: int = 16384
    always_rerank_positives: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", parse_metric(self.metric).name)
        names = [self.metric, *(parse_metric(name).name for name in self.metrics)]
        object.__setattr__(self, "metrics", list(dict.fromkeys(names)))
        for name in ("depth", "max_queries", "dev_max_queries", "token_budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"eval.{name} must be at least 1, got {value}")

    def build(
        self, split: Split, documents: Mapping[str, str], tokenizer: Any, *, dev: bool = False
    ) -> RerankingEvaluator:
        """The evaluator of one split; `dev` limits it to `dev_max_queries`, else to `max_queries`."""
        limit = self.dev_max_queries if dev else self.max_queries
        return RerankingEvaluator(split, documents, tokenizer, self, max_queries=limit)


@dataclass(frozen=True)
class RerankingResult:
    """A model's metrics and its scores of the candidates, `run[query][document]`."""

    metrics: Metrics
    run: Run


class RerankingEvaluator:
    """Scores the first `depth` candidates of each query; every judged query counts, whatever its candidates.

    Relevant documents that the first stage missed are lost, as they are in use (`always_rerank_positives` appends
    them: an upper bound on the reranker alone, not a result). `tokenizer(queries, documents)` gives unpadded rows;
    it is asked once, at the first evaluation, a share per rank.
    """

    def __init__(
        self,
        split: Split,
        documents: Mapping[str, str],
        tokenizer: Any,
        config: RerankingConfig,
        max_queries: int | None = None,
    ):
        self.config = config
        self.documents = documents
        self.tokenizer = tokenizer
        self.queries = judged_queries(split, max_queries)
        self.qrels = {query: split.qrels[query] for query in self.queries}
        self.first_stage_run = {query: self._candidates(query, split) for query in self.queries}
        if not any(self.first_stage_run.values()):
            raise ValueError(f"no candidates to rerank for any of the {len(self.queries)} judged queries")
        longest = max(len(split.candidates.get(query, [])) for query in self.queries)
        if longest < min(config.depth, len(documents)) and is_main():
            _warn_depth(config.depth, longest)
        if not self._any_relevant_candidate() and is_main():
            logger.warning(
                "none of the candidates of %d queries (%s ...) is judged relevant: every metric will be 0",
                len(self.queries),
                next(iter(self.queries)),
            )

    @cached_property
    def first_stage(self) -> Metrics:
        """The first stage's own order of the same candidates."""
        return measure(self.qrels, self.first_stage_run, self.config.metrics)

    @cached_property
    def ceiling(self) -> Metrics:
        """What a perfect reranker of these candidates would reach: each metric under the ideal order."""
        ideal = {
            query: {document: float(self.qrels[query].get(document, 0)) for document in scores}
            for query, scores in self.first_stage_run.items()
        }
        return measure(self.qrels, ideal, self.config.metrics)

    @cached_property
    def recall_ceiling(self) -> float:
        """recall@depth of the candidates: the share of relevant documents that can be ranked at all."""
        longest = max(map(len, self.first_stage_run.values()))
        return measure(self.qrels, self.first_stage_run, [f"recall@{longest}"])[f"recall@{longest}"]

    @cached_property
    def rows(self) -> TokenRows:
        """The tokenised (query, document) pairs, in the order of `first_stage_run`."""
        pairs = [(query, document) for query, scores in self.first_stage_run.items() for document in scores]
        queries = [self.queries[query] for query, _ in pairs]
        documents = [self.documents[document] for _, document in pairs]
        return tokenize_sharded(lambda part: self.tokenizer(queries[part], documents[part]), len(pairs))

    def evaluate(self, forward: Forward, device: torch.device) -> RerankingResult:
        """Metrics of `forward(features)["score"]`, a module's or an engine's; all ranks must call it together."""
        scores = score_rows(forward, self.rows, self.tokenizer.padding, self.config.token_budget, device).tolist()
        values = iter(scores)
        run = {query: {doc: next(values) for doc in docs} for query, docs in self.first_stage_run.items()}
        return RerankingResult(measure(self.qrels, run, self.config.metrics), run)

    def _any_relevant_candidate(self) -> bool:
        runs = self.first_stage_run.items()
        return any(self.qrels[query].get(document, 0) > 0 for query, scores in runs for document in scores)

    def _candidates(self, query: str, split: Split) -> dict[str, float]:
        scores = dict(split.candidates.get(query, [])[: self.config.depth])
        if self.config.always_rerank_positives:
            bottom = min(scores.values(), default=0.0) - 1.0
            relevant = (document for document, grade in split.qrels[query].items() if grade > 0)
            scores |= {document: bottom for document in relevant if document not in scores}
        return scores


@cache  # once, not for every split
def _warn_depth(depth: int, longest: int) -> None:
    logger.warning(
        "eval.depth=%d: the first stage gives at most %d candidates, no more are reranked; raise data.candidates.depth",
        depth,
        longest,
    )


def judged_queries(split: Split, limit: int | None) -> dict[str, str]:
    """The judged queries, in their order; at most `limit`, chosen by a hash of their ids: the same in every run."""
    judged = [query for query in split.queries if query in split.qrels]
    chosen = set(sorted(judged, key=lambda query: stable_hash("evaluated query", query))[:limit])
    return {query: split.queries[query] for query in judged if query in chosen}
