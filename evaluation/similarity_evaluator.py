"""Score labelled pairs of held-out queries and correlate the scores with the labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from data.collection import Split
from engines.distributed.process_group import is_main
from evaluation.correlation import correlate, parse_correlation
from evaluation.evaluator import EvaluationResult, EvaluatorConfig, Prompts, judged_queries
from evaluation.list_scorer import ListScorer
from evaluation.metrics import Metrics, Run
from inference.runner import Runner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig(EvaluatorConfig):
    """The options of an evaluation by correlation with the labels of pairs."""

    metric: str = "Spearman"
    metrics: list[str] = field(default_factory=lambda: ["Spearman", "Pearson", "AP"])
    dev_max_queries: int | None = 1000

    ranks: ClassVar[bool] = False

    @classmethod
    def parse(cls, metric: str) -> str:
        return parse_correlation(metric)

    @property
    def method(self) -> str:
        return "scores of pairs correlated with their labels"

    def check_split(self, split: Split, name: str) -> None:
        """Raise ValueError if the labels are all equal, so that there is no correlation, or if they are degrees and the
        metric needs relevance."""
        check_labels([label for judged in split.judgements.values() for label in judged.values()], name)
        if split.degrees and self.metric == "AP":
            raise ValueError(
                f"eval.metric=AP needs labels of relevance, and {split.degrees}: choose Spearman or Pearson, or "
                "set data.relevant_from=X (labels of X and more are relevant)"
            )

    def build(
        self,
        split: Split,
        documents: Mapping[str, str],
        tokenizer: Any,
        *,
        dev: bool = False,
        prompts: Prompts | None = None,
    ) -> SimilarityEvaluator:
        """Build the evaluator of one split, limited to the pairs of `dev_max_queries` queries if `dev`, else to those
        of `max_queries`. Raises ValueError if the labels are all equal, so that there is no correlation."""
        return SimilarityEvaluator(split, documents, tokenizer, self, dev=dev, prompts=prompts or Prompts())


class SimilarityEvaluator(ListScorer):
    """Correlates the scores of all judged pairs with their labels, over all queries at once.

    A pair's score is the similarity of its texts or a reranker's score. Nothing is ranked, so there is no first stage,
    and no value of a single query. Average precision is measured only if labels are relevance (`Split.degrees`).
    """

    has_first_stage = False
    first_stage_source = ""
    first_stage_run: ClassVar[Run] = {}
    first_stage = oracle = Metrics({}, {})
    candidate_recall = partial = searched = None

    def __init__(
        self,
        split: Split,
        documents: Mapping[str, str],
        tokenizer: Any,
        config: SimilarityConfig,
        *,
        dev: bool,
        prompts: Prompts,
    ):
        self.config = config
        self.documents, self.tokenizer = documents, tokenizer
        limit = config.dev_max_queries if dev else config.max_queries
        self.queries = judged_queries(split, limit, split.judgements)
        self.query_prompts = dict(zip(self.queries, prompts.of_queries(split, self.queries), strict=True))
        self.document_prompt = prompts.document
        self.qrels = {query: split.qrels.get(query, {}) for query in self.queries}
        self.lists = {query: split.judgements[query] for query in self.queries}
        labels = [label for judged in self.lists.values() for label in judged.values()]
        self.labels = np.array(labels, dtype=np.float64)
        check_labels(labels, "dev" if dev else "evaluated")
        self.metrics = [name for name in config.metrics if name != "AP" or not split.degrees]

    @property
    def num_pairs(self) -> int:
        return len(self.labels)

    def evaluate(self, runner: Runner) -> EvaluationResult:
        """Evaluate the "score" that the model gives to pairs, or the similarities of its "embedding" of texts. Call it
        on all ranks."""
        run = self.score(runner, self.config.token_budget)
        scores = np.array([score for found in run.values() for score in found.values()], dtype=np.float64)
        if len(np.unique(scores)) == 1 and is_main():
            logger.warning(
                "the model gives all %d pairs the same score: their correlation with the labels is undefined, and "
                "reported as 0",
                len(scores),
            )
        return EvaluationResult(Metrics(correlate(self.labels, scores, self.metrics), {}), run)


def check_labels(labels: list[float], which: str) -> None:
    """Raise ValueError if there are no two pairs of different labels: their correlation is undefined."""
    if len(set(labels)) > 1:
        return
    number = len(labels)
    found = {0: f"there is no {which} pair", 1: f"there is one {which} pair"}.get(
        number, f"all {number} {which} pairs have the label {labels[0] if labels else 0:g}"
    )
    without_dev = ", or train without dev (data.dev_fraction=0)" * (which == "dev")
    raise ValueError(
        f"eval=similarity compares pairs of different labels, and {found}: hold out more (data.dev_fraction, "
        f"data.test_fraction, or files of their own){without_dev}; if labels are "
        "relevance, choose eval=retrieval or eval=reranking"
    )
