"""Rerank the first stage's candidates of held-out queries and measure the order."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from data.batch import TokenSequences
from data.collection import Split
from engines.distributed.process_group import is_main
from evaluation.evaluator import EvaluationResult, EvaluatorConfig, Prompts, judged_queries
from evaluation.metrics import Metrics, Qrels, Run, measure
from inference.encode import embed, tokenize_texts
from inference.runner import Runner, similarity_of
from inference.score import tokenize_sharded
from inference.shared_prefix import score_lists

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RerankingConfig(EvaluatorConfig):
    """The options of an evaluation by reranking."""

    always_rerank_positives: bool = False

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


class RerankingEvaluator:
    """Scores the first `depth` candidates of each query. Every judged query counts, whatever its candidates.

    Relevant documents that the first stage did not find cannot be found, as in practice. `always_rerank_positives`
    appends them: that measures the reranker alone and is not a result. Texts are tokenised once, at the first
    evaluation, a share per rank. If the tokenizer's layout is "pairs", `tokenizer(queries, documents)` gives what a
    reranker scores. If it is "texts", `tokenizer(texts, role=...)` gives what a bi-encoder embeds, and the similarity
    is the score.
    """

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
        self.documents = documents
        self.tokenizer = tokenizer
        self.queries = judged_queries(split, max_queries)
        self.query_prompts = dict(zip(self.queries, prompts.of_queries(split, self.queries), strict=True))
        self.document_prompt = prompts.document
        self.qrels = {query: split.qrels[query] for query in self.queries}
        self.first_stage_run = {query: self._candidates(query, split) for query in self.queries}
        if not any(self.first_stage_run.values()):
            raise ValueError(
                f"no candidates to rerank for any of the {len(self.queries)} judged queries: none shares a word with a "
                "document; check the data, data.candidates.language and data.candidates.tokenizer"
            )
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

    @cached_property
    def pairs(self) -> TokenSequences:
        """The tokenised (query, document) pairs, in the order of `first_stage_run`."""
        names = [(query, document) for query, scores in self.first_stage_run.items() for document in scores]
        pairs = tokenize_sharded(lambda part: self._tokenize_pairs(names[part]), len(names))
        if pairs.truncated is not None and pairs.truncated.any() and is_main():
            _warn_truncated(int((pairs.truncated > 0).sum()), len(pairs), self.tokenizer.max_length)
        return pairs

    @cached_property
    def texts(self) -> TokenSequences:
        """The tokenised queries, then the documents of `candidates`."""
        texts, prompts = list(self.queries.values()), list(self.query_prompts.values())
        queries = tokenize_texts(self.tokenizer, texts, "query", prompts)
        texts = [self.documents[document] for document in self.candidates]
        documents = tokenize_texts(self.tokenizer, texts, "document", [self.document_prompt] * len(texts))
        return TokenSequences.concatenate([queries, documents])

    @cached_property
    def candidates(self) -> dict[str, int]:
        """Every document that is a candidate of some query -> its position in `texts` after the queries."""
        names = dict.fromkeys(document for scores in self.first_stage_run.values() for document in scores)
        return {document: position for position, document in enumerate(names)}

    def evaluate(self, runner: Runner) -> EvaluationResult:
        """Evaluate the "score" that the model gives to pairs, or the similarities of its "embedding" of texts. Call it
        on all ranks."""
        score = self._similarities if self.tokenizer.layout == "texts" else self._scores
        values = iter(score(runner).tolist())
        run = {query: {doc: next(values) for doc in docs} for query, docs in self.first_stage_run.items()}
        return EvaluationResult(measure(self.qrels, run, self.config.metrics), run)

    def _tokenize_pairs(self, pairs: list[tuple[str, str]]) -> dict[str, list[list[int]]]:
        encoded = []
        for prompt, group in groupby(pairs, key=lambda pair: self.query_prompts[pair[0]]):
            queries, documents = zip(*group, strict=True)
            prompts = {"query_prompt": prompt, "document_prompt": self.document_prompt}
            set_prompts = {name: value for name, value in prompts.items() if value is not None}
            texts = [self.queries[query] for query in queries], [self.documents[document] for document in documents]
            encoded.append(self.tokenizer(*texts, **set_prompts))
        return {name: [row for part in encoded for row in part[name]] for name in encoded[0]}

    def _scores(self, runner: Runner) -> Tensor:
        sizes = [len(documents) for documents in self.first_stage_run.values()]
        return score_lists(runner, self.pairs, sizes, self.tokenizer.padding, self.config.token_budget)

    def _similarities(self, runner: Runner) -> Tensor:
        similarity = similarity_of(runner.model)
        embeddings = similarity.comparable(embed(runner, self.texts, self.tokenizer, self.config.token_budget))
        queries, documents = embeddings.split([len(self.queries), len(self.candidates)])
        chosen = [[self.candidates[document] for document in docs] for docs in self.first_stage_run.values()]
        pairs = zip(queries, chosen, strict=True)
        return torch.cat([similarity.pairs(query, documents[own]) for query, own in pairs])

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


def candidate_recall(qrels: Qrels, run: Run) -> float:
    """The mean over queries of the share of their relevant documents that are candidates: recall@depth."""
    longest = max(map(len, run.values()))
    if longest == 0:
        return 0.0
    return measure(qrels, run, [f"recall@{longest}"])[f"recall@{longest}"]


def _warn_truncated(count: int, total: int, max_length: int) -> None:
    logger.warning(
        "%d of %d evaluated pairs are longer than model.max_length=%d tokens and were cut", count, total, max_length
    )


@cache  # warn once, not for every split
def _warn_depth(depth: int, longest: int) -> None:
    logger.warning(
        "eval.depth=%d: the first stage gives at most %d candidates to rerank; raise data.candidates.depth, unless no "
        "more documents share a word with a query",
        depth,
        longest,
    )
