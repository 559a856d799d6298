"""Rerank the first stage's candidates of held-out queries and measure the order."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, ClassVar

from data.collection import Split
from engines.distributed.process_group import is_main
from evaluation.evaluator import EvaluationResult, EvaluatorConfig, Prompts, judged_queries
from evaluation.list_scorer import ListScorer
from evaluation.metrics import Metrics, Qrels, Run, measure
from inference.runner import Runner

logger = logging.getLogger(__name__)

MAX_DEPTHS = 20  # of a sweep, which corrects p-values for all of their pairs


@dataclass(frozen=True, kw_only=True)
class RerankingConfig(EvaluatorConfig):
    """The options of an evaluation by reranking. `depths`: launch/evaluate.py compares these depths, and `depth`
    becomes the largest of them."""

    depth: int = 30  # candidates reranked per query
    always_rerank_positives: bool = False
    depths: list[int] = field(default_factory=list)

    counts: ClassVar[tuple[str, ...]] = (*EvaluatorConfig.counts, "depth")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.depths:
            return
        if min(self.depths) < 1 or len(set(self.depths)) > MAX_DEPTHS:
            raise ValueError(f"eval.depths={self.depths}: give 1 to {MAX_DEPTHS} depths, each at least 1")
        if self.always_rerank_positives:
            raise ValueError(
                "eval.always_rerank_positives=true adds documents that the first stage has not ranked, and eval.depths "
                "cuts its ranking: leave one out"
            )
        object.__setattr__(self, "depths", sorted(set(self.depths)))
        object.__setattr__(self, "depth", self.depths[-1])

    @property
    def method(self) -> str:
        return f"reranked to depth {self.depth}"

    def build(
        self,
        split: Split,
        documents: Mapping[str, str],
        tokenizer: Any,
        *,
        dev: bool = False,
        prompts: Prompts | None = None,
    ) -> RerankingEvaluator:
        """Build the evaluator of one split, limited to `dev_max_queries` if `dev`, else to `max_queries`."""
        limit = self.dev_max_queries if dev else self.max_queries
        return RerankingEvaluator(split, documents, tokenizer, self, max_queries=limit, prompts=prompts or Prompts())


class RerankingEvaluator(ListScorer):
    """Scores the first `depth` candidates of each query. Every judged query counts, whatever its candidates.

    Relevant documents that the first stage did not find cannot be found, as in practice. `always_rerank_positives`
    appends them: that measures the reranker alone and is not a result.
    """

    num_pairs = partial = searched = None

    def __init__(
        self,
        split: Split,
        documents: Mapping[str, str],
        tokenizer: Any,
        config: RerankingConfig,
        *,
        max_queries: int | None,
        prompts: Prompts,
    ):
        self.config = config
        self.has_first_stage = config.has_first_stage(split)
        self.first_stage_source = "the scores in the file" if split.ranked and split.listed else ""
        self.documents = documents
        self.tokenizer = tokenizer
        self.queries = judged_queries(split, max_queries)
        self.query_prompts = dict(zip(self.queries, prompts.of_queries(split, self.queries), strict=True))
        self.document_prompt = prompts.document
        self.qrels = {query: split.qrels[query] for query in self.queries}
        self.first_stage_run = self.lists = {query: self._candidates(query, split) for query in self.queries}
        check_candidates(self.first_stage_run)
        longest = max(len(split.candidates.get(query, [])) for query in self.queries)
        if longest < min(config.depth, len(documents)) and not self._all_judged() and is_main():
            _warn_depth(config.depth, longest)
        if not self._any_relevant_candidate() and is_main():
            logger.warning(
                "none of the candidates of %d queries (%s ...) is judged relevant: every metric will be 0",
                len(self.queries),
                next(iter(self.queries)),
            )

    @cached_property
    def first_stage(self) -> Metrics:
        """The metrics of the first stage's order of the same candidates."""
        return measure(self.qrels, self.first_stage_run, self.config.metrics)

    @cached_property
    def oracle(self) -> Metrics:
        """The metrics of the ideal order of the candidates, which no reranker can exceed."""
        ideal = {
            query: {document: float(self.qrels[query].get(document, 0)) for document in scores}
            for query, scores in self.first_stage_run.items()
        }
        return measure(self.qrels, ideal, self.config.metrics)

    @cached_property
    def candidate_recall(self) -> float:
        """The share of relevant documents that are among the candidates."""
        return candidate_recall(self.qrels, self.first_stage_run)

    def evaluate(self, runner: Runner) -> EvaluationResult:
        """Evaluate the "score" that the model gives to pairs, or the similarities of its "embedding" of texts. Call it
        on all ranks."""
        run = self.score(runner, self.config.token_budget)
        return EvaluationResult(measure(self.qrels, run, self.config.metrics), run)

    def _any_relevant_candidate(self) -> bool:
        runs = self.first_stage_run.items()
        return any(self.qrels[query].get(document, 0) > 0 for query, scores in runs for document in scores)

    def _all_judged(self) -> bool:
        """Whether candidates are the documents that the data list with each query, of which there are no more."""
        return all(scores.keys() <= self.qrels[query].keys() for query, scores in self.first_stage_run.items())

    def _candidates(self, query: str, split: Split) -> dict[str, float]:
        scores = dict(split.candidates.get(query, [])[: self.config.depth])
        if self.config.always_rerank_positives:
            bottom = min(scores.values(), default=0.0) - 1.0
            relevant = (document for document, grade in split.qrels[query].items() if grade > 0)
            scores |= {document: bottom for document in relevant if document not in scores}
        return scores


def check_candidates(first_stage: Run) -> None:
    """Raise ValueError if no query has a candidate."""
    if not any(first_stage.values()):
        raise ValueError(
            f"no candidates to rerank for any of the {len(first_stage)} judged queries: none shares a word with a "
            "document; check the data, data.candidates.language and data.candidates.tokenizer"
        )


def candidate_recall(qrels: Qrels, run: Run) -> float:
    """The mean over queries of the share of their relevant documents that are candidates: recall@depth."""
    longest = max(map(len, run.values()))
    if longest == 0:
        return 0.0
    return measure(qrels, run, [f"recall@{longest}"])[f"recall@{longest}"]


@cache  # warn once, not for every split
def _warn_depth(depth: int, longest: int) -> None:
    logger.warning(
        "eval.depth=%d: the first stage gives at most %d candidates to rerank; raise data.candidates.depth (or give a "
        "run that is deeper), unless no more documents share a word with a query",
        depth,
        longest,
    )
