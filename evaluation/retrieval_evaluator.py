"""Search the whole corpus by a model's embeddings, also by their first dimensions only, and measure the results."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from data.batch import TokenSequences
from data.collection import Split
from data.hashing import stable_hash
from data.truncation import Truncation
from evaluation.evaluator import (
    EvaluationResult,
    EvaluatorConfig,
    Prompts,
    judged_queries,
    leave_out,
    most_own_documents,
)
from evaluation.metrics import Metrics, Qrels, Run, measure, parse_metric
from inference.encode import embed, tokenize_texts
from inference.runner import Runner, similarity_of
from inference.search import BlockSearch, check_search, index_for
from losses.math.similarity import Similarity


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(EvaluatorConfig):
    """The options of an evaluation by retrieval. `dims`: also measure the first so many dimensions, as
    "nDCG@10/dim128".

    With `dev_max_documents` the evaluations during training search only a part of the corpus. Their values are higher
    than over the whole corpus, and can be compared only with each other.
    """

    metrics: list[str] = field(default_factory=lambda: ["nDCG@10", "MRR@10", "MAP", "recall@10", "recall@100"])
    depth: int = 1000
    dev_max_queries: int | None = 500
    dev_max_documents: int | None = 1000
    dims: list[int] = field(default_factory=list)
    search: Literal["exact", "faiss"] = "exact"
    query_block: int = 256
    document_block: int = 16384

    required_outputs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    searches_corpus: ClassVar[bool] = True
    counts: ClassVar[tuple[str, ...]] = (
        *EvaluatorConfig.counts,
        "depth",
        "dev_max_documents",
        "query_block",
        "document_block",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search(self.search)
        object.__setattr__(self, "dims", list(dict.fromkeys(self.dims)))
        if any(dim < 1 for dim in self.dims):
            raise ValueError(f"eval.dims={self.dims}: each must be at least 1")
        for name in self.metrics:
            if (parse_metric(name).cutoff or 0) > self.depth:
                raise ValueError(f"eval.depth={self.depth} documents are too few for {name}: raise it")

    @property
    def method(self) -> str:
        return "retrieved from the whole corpus"

    @property
    def retrieval_depth(self) -> int:
        return self.depth

    @property
    def largest_dimension(self) -> int:
        return max(self.dims, default=0)

    def build(
        self,
        split: Split,
        documents: Mapping[str, str],
        tokenizer: Any,
        *,
        dev: bool = False,
        prompts: Prompts | None = None,
    ) -> RetrievalEvaluator:
        """Build the evaluator of one split, limited to `dev_max_queries` and `dev_max_documents` if `dev`."""
        return RetrievalEvaluator(
            split,
            documents,
            tokenizer,
            self,
            max_queries=self.dev_max_queries if dev else self.max_queries,
            max_documents=self.dev_max_documents if dev else None,
            prompts=prompts or Prompts(),
        )


class RetrievalEvaluator:
    """Searches `documents` for every judged query, without those that are the query itself (`Split.own_documents`).
    `tokenizer(texts, role=...)` gives unpadded sequences.

    Texts are tokenised once, at the first evaluation, and kept as int32 tokens. Documents are embedded block by block
    (by length within a block) and freed once searched. The first stage is given by the split's candidates. The model is
    compared and fused with it, but searches all documents.
    """

    oracle = Metrics({}, {})  # the whole corpus is searched, so any order is possible
    candidate_recall = num_pairs = None
    first_stage_source = ""

    def __init__(
        self,
        split: Split,
        documents: Mapping[str, str],
        tokenizer: Any,
        config: RetrievalConfig,
        *,
        max_queries: int | None,
        max_documents: int | None,
        prompts: Prompts,
    ):
        self.config = config
        self.has_first_stage = config.has_first_stage(split)
        self.tokenizer = tokenizer
        self.queries = judged_queries(split, max_queries)
        self.query_prompts, self.document_prompt = prompts.of_queries(split, self.queries), prompts.document
        self.qrels = {query: split.qrels[query] for query in self.queries}
        self.own_documents = split.own_documents
        candidates = {query: dict(split.candidates.get(query, [])[: config.depth]) for query in self.queries}
        self.documents = reduced_corpus(documents, self.qrels, candidates, max_documents)
        self.first_stage_run = {
            query: {document: score for document, score in scores.items() if document in self.documents}
            for query, scores in candidates.items()
        }

    @cached_property
    def first_stage(self) -> Metrics:
        """The metrics of the candidates in `documents`, in their own order."""
        return measure(self.qrels, self.first_stage_run, self.config.metrics)

    @cached_property
    def query_sequences(self) -> TokenSequences:
        return tokenize_texts(self.tokenizer, list(self.queries.values()), "query", self.query_prompts)

    @cached_property
    def document_sequences(self) -> list[TokenSequences]:
        """The tokenised documents, block by block."""
        texts, size = list(self.documents.values()), self.config.document_block
        blocks = (texts[start : start + size] for start in range(0, len(texts), size))
        prompt = [self.document_prompt]
        return [tokenize_texts(self.tokenizer, block, "document", prompt * len(block)) for block in blocks]

    def truncation(self, queries: Container[str] | None = None) -> Truncation | None:
        """How many of these queries (None: of all) and of the documents were cut."""
        chosen = [queries is None or query in queries for query in self.queries]
        rows = np.array(chosen + [True] * len(self.documents))
        parts = [self.query_sequences.truncated, *(block.truncated for block in self.document_sequences)]
        lost = None if any(part is None for part in parts) else np.concatenate([p for p in parts if p is not None])
        return Truncation.of_texts(lost, rows, len(chosen))

    def evaluate(self, runner: Runner) -> EvaluationResult:
        """Evaluate search by the model's "embedding". Call it on all ranks."""
        runs = self.retrieve(runner)
        whole = measure(self.qrels, runs[None], self.config.metrics)
        mean, per_query = dict(whole.mean), dict(whole.per_query)
        for dim in self.config.dims:
            cut = measure(self.qrels, runs[dim], self.config.metrics)
            mean |= {f"{name}/dim{dim}": value for name, value in cut.mean.items()}
            per_query |= {f"{name}/dim{dim}": values for name, values in cut.per_query.items()}
        return EvaluationResult(Metrics(mean, per_query), runs[None])

    def retrieve(self, runner: Runner) -> dict[int | None, Run]:
        """Search with whole embeddings (None) and with each of `dims` first dimensions, in one pass over the corpus."""
        similarity = similarity_of(runner.model)
        queries = self._embed(runner, self.query_sequences)
        if too_many := [size for size in self.config.dims if size >= queries.shape[1]]:
            raise ValueError(f"eval.dims: {too_many[0]} is not below the model's {queries.shape[1]} dimensions")
        dims: list[int | None] = [None, *self.config.dims]
        searches = {dim: self._search(similarity.comparable(queries, dim), similarity) for dim in dims}
        for block in self.document_sequences:
            documents = self._embed(runner, block)
            for dim, search in searches.items():
                search.add(similarity.comparable(documents, dim))
        return {dim: self._run(*search.result()) for dim, search in searches.items()}

    def _embed(self, runner: Runner, sequences: TokenSequences) -> Tensor:
        return embed(runner, sequences, self.tokenizer, self.config.token_budget)

    def _search(self, queries: Tensor, similarity: Similarity) -> BlockSearch:
        index, block = index_for(self.config.search, similarity), self.config.query_block
        depth = self.config.depth + most_own_documents(self.own_documents, self.queries)
        return BlockSearch(queries, depth, query_block=block, similarity=similarity, index=index)

    def _run(self, scores: Tensor, indices: Tensor) -> Run:
        names = list(self.documents)
        run = {
            query: {names[index]: score for index, score in zip(found, values, strict=True)}
            for query, found, values in zip(self.queries, indices.tolist(), scores.tolist(), strict=True)
        }
        return leave_out(run, self.own_documents, self.config.depth)


def reduced_corpus(documents: Mapping[str, str], qrels: Qrels, candidates: Run, size: int | None) -> Mapping[str, str]:
    """Choose at most `size` documents, in their order; None: all.

    All judged documents are taken, even if they are more than `size`; then candidates, the first of every query before
    any second one; then the documents whose ids have the lowest hashes.
    """
    if size is None or size >= len(documents):
        return documents
    judged = dict.fromkeys(document for grades in qrels.values() for document in grades)
    chosen = dict.fromkeys(chain(judged, _by_rank(candidates), _by_hash(documents, size)))
    kept = set(list(chosen)[: max(size, len(judged))])
    return {name: text for name, text in documents.items() if name in kept}


def _by_rank(candidates: Run) -> Iterator[str]:
    places = zip_longest(*candidates.values())
    return (document for place in places for document in place if document is not None)


def _by_hash(documents: Mapping[str, str], size: int) -> list[str]:
    return heapq.nsmallest(size, documents, key=lambda document: stable_hash("dev document", document))
