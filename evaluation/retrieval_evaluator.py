"""Search the whole corpus by a model's embeddings, also as they are stored in fewer dimensions or bits, and measure."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from data.batch import TokenSequences
from data.collection import Split, content_hash
from data.hashing import stable_hash
from data.progress import show_progress
from data.truncation import Truncation
from evaluation.evaluator import (
    EvaluationResult,
    EvaluatorConfig,
    Prompts,
    judged_queries,
    leave_out,
    most_own_documents,
)
from evaluation.metrics import Metrics, Qrels, Run, measure, parse_metric, rank
from inference.encode import embed, tokenize_texts
from inference.quantize import Precision, check_vector_precision
from inference.runner import Runner, int8_ranges_of, similarity_of
from inference.search import INDEXES, BlockSearch, check_search, index_for
from inference.stored_form import StoredForm
from inference.vector_files import block_slices
from inference.vector_search import documents_at_once
from losses.math.quantization import ranges_of
from losses.math.similarity import Similarity
from tensors.ragged import elements

OVERLAP_DEPTH = 10  # documents of the overlap with float32 vectors


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(EvaluatorConfig):
    """The options of an evaluation by retrieval. `dims`: also measure the first so many dimensions, as
    "nDCG@10/dim128". `precision`: also measure documents that are stored as fp16, int8 or binary, as "nDCG@10/int8"
    (of the first dimensions "nDCG@10/dim128/int8"), and the share of the ten best by float32 vectors of as many
    dimensions that are among the ten best, "overlap@10/int8". fp32 is always measured. The queries stay float32, unless
    `quantize_queries`.

    With `max_documents` only a part of the corpus is searched, with `dev_max_documents` in the evaluations during
    training. Such values are higher than over the whole corpus, and can be compared only with each other.
    """

    metrics: list[str] = field(default_factory=lambda: ["nDCG@10", "MRR@10", "MAP", "recall@10", "recall@100"])
    depth: int = 1000
    max_documents: int | None = None
    dev_max_queries: int | None = 500
    dev_max_documents: int | None = 1000
    dims: list[int] = field(default_factory=list)
    precision: list[Precision] = field(default_factory=lambda: ["fp32"])
    quantize_queries: bool = False
    search: str = "exact"  # of inference.search.INDEXES
    query_block: int = 256
    document_block: int = 16384

    required_outputs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    searches_corpus: ClassVar[bool] = True
    counts: ClassVar[tuple[str, ...]] = (
        *EvaluatorConfig.counts,
        "depth",
        "max_documents",
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
        for precision in self.precision:
            check_vector_precision(precision, "eval.precision")
        if self.quantize_queries and not {*self.precision} - {"fp32"}:
            raise ValueError("eval.quantize_queries=true: eval.precision has only fp32, add int8 or binary")
        if INDEXES[self.search].counts and len(self.forms) > 1:
            raise ValueError(
                f"eval.search={self.search} stores the values that are not 0, as float32: leave out eval.dims and "
                "eval.precision"
            )
        for name in self.metrics:
            if (parse_metric(name).cutoff or 0) > self.depth:
                raise ValueError(f"eval.depth={self.depth} documents are too few for {name}: raise it")

    @property
    def forms(self) -> list[StoredForm]:
        """The forms in which documents are searched, the float32 one of whole vectors first."""
        precisions = dict.fromkeys(["fp32", *self.precision])
        return [StoredForm(dim, precision) for dim in [None, *self.dims] for precision in precisions]

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
        """Build the evaluator of one split, limited to `dev_max_queries` and `dev_max_documents` if `dev`, else to
        `max_queries` and `max_documents`."""
        return RetrievalEvaluator(
            split,
            documents,
            tokenizer,
            self,
            max_queries=self.dev_max_queries if dev else self.max_queries,
            max_documents=self.dev_max_documents if dev else self.max_documents,
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
        self.partial = part_of(self.documents, documents)
        self.total_documents = len(documents)
        self.dimension = 0  # of the model, once it has embedded
        self.index_bytes: dict[str, int] = {}  # of the documents that were searched last, by stored form
        self.index_facts: dict[str, float] = {}  # of the index of the last search (`BlockSearch.facts`)
        self.first_stage_run = {
            query: {document: score for document, score in scores.items() if document in self.documents}
            for query, scores in candidates.items()
        }

    @cached_property
    def first_stage(self) -> Metrics:
        """The metrics of the candidates in `documents`, in their own order."""
        return measure(self.qrels, self.first_stage_run, self.config.metrics)

    @cached_property
    def searched(self) -> dict[str, Any]:
        """How many documents are searched, and a hash of their ids."""
        return self.partial or {"documents": len(self.documents), "hash": content_hash(sorted(self.documents))}

    @cached_property
    def query_sequences(self) -> TokenSequences:
        return tokenize_texts(self.tokenizer, list(self.queries.values()), "query", self.query_prompts)

    @cached_property
    def document_sequences(self) -> list[TokenSequences]:
        """The tokenised documents, block by block."""
        texts, size = list(self.documents.values()), self.config.document_block
        blocks = [texts[start : start + size] for start in range(0, len(texts), size)]
        prompt, shown = [self.document_prompt], show_progress(blocks, "documents", len(blocks), "blocks")
        return [tokenize_texts(self.tokenizer, block, "document", prompt * len(block)) for block in shown]

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
        values: dict[str, dict[str, float]] = {}
        for form, run in runs.items():
            measured = measure(self.qrels, run, self.config.metrics).per_query
            if form.precision != "fp32":
                measured |= {f"overlap@{OVERLAP_DEPTH}": overlaps(runs[replace(form, precision="fp32")], run)}
            values |= {name + form.suffix: of_queries for name, of_queries in measured.items()}
        index = index_of(self.index_bytes, self.dimension, len(self.documents), self.total_documents)
        if self.index_facts:
            index["searched"] = {"index": self.config.search, "documents": len(self.documents), **self.index_facts}
        return EvaluationResult(Metrics({}, values).over(list(self.qrels)), runs[StoredForm()], index)

    def retrieve(self, runner: Runner) -> dict[StoredForm, Run]:
        """Search documents in each of the configured forms, in one pass over the corpus."""
        similarity = similarity_of(runner.model)
        queries = self._embed(runner, self.query_sequences)
        self.dimension = queries.shape[1]
        if too_many := [size for size in self.config.dims if size >= queries.shape[1]]:
            raise ValueError(f"eval.dims: {too_many[0]} is not below the model's {queries.shape[1]} dimensions")
        size = min(self.config.document_block, documents_at_once(similarity, queries.shape[1], self.tokenizer))
        embedded, ranges = self._ranges(runner, queries.shape[1], size)
        searches, self.index_bytes = {}, {form.name: 0 for form in self.config.forms}
        for form in self.config.forms:
            asked = form if self.config.quantize_queries else StoredForm(form.dim)
            searches[form] = self._search(asked.values(queries, similarity, ranges.get(form)), similarity)
        parts = [(block, part) for block in self.document_sequences for part in block_slices(len(block), size)]
        for block, part in show_progress(parts, "searching", len(parts), "blocks of documents"):
            documents = self._embed(runner, _part(block, part)) if embedded is None else embedded
            for form, search in searches.items():
                self.index_bytes[form.name] += form.num_bytes(documents)
                search.add(form.values(documents, similarity, ranges.get(form)))
        self.index_facts = searches[StoredForm()].facts()
        if self.index_facts:
            self.index_bytes = {StoredForm().name: int(self.index_facts["bytes"])}
        return {form: self._run(*search.result()) for form, search in searches.items()}

    def _ranges(self, runner: Runner, dimension: int, size: int) -> tuple[Tensor | None, dict[StoredForm, Tensor]]:
        """The ranges of the forms in int8: the model's own; for a model that was not trained for them, those of
        `size` documents, evenly spread over the corpus. A corpus that is no larger is embedded for them, and returned,
        so that it is not embedded twice."""
        forms = [form for form in self.config.forms if form.precision == "int8"]
        own = int8_ranges_of(runner.model)
        known = {} if own is None else own.known()
        ranges = {form: known[form.dim or dimension] for form in forms if (form.dim or dimension) in known}
        others = [form for form in forms if form not in ranges]
        if not others:
            return None, ranges
        is_whole = len(self.documents) <= size
        sample = self._embed(runner, self.document_sequences[0] if is_whole else self._sample(size))
        similarity = similarity_of(runner.model)
        ranges |= {form: ranges_of(elements(similarity.comparable(sample, form.dim))) for form in others}
        return sample if is_whole else None, ranges

    def _sample(self, size: int) -> TokenSequences:
        """`size` documents, evenly spread over the corpus."""
        texts = list(self.documents.values())
        chosen = [texts[number * len(texts) // size] for number in range(size)]
        return tokenize_texts(self.tokenizer, chosen, "document", [self.document_prompt] * size)

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


def _part(block: TokenSequences, part: slice) -> TokenSequences:
    """Some sequences of a block."""
    return block if part == slice(0, len(block)) else block.select(np.arange(part.start, part.stop))


def index_of(searched_bytes: Mapping[str, int], dimension: int, searched: int, documents: int) -> dict[str, Any]:
    """The dimension of the model, the number of documents of the whole corpus, and the bytes of their vectors by stored
    form ("fp32", "dim128/int8"), given those of the documents that were searched."""
    sizes = {name: size * documents // searched for name, size in searched_bytes.items()}
    return {"dimension": dimension, "documents": documents, "bytes": sizes}


def part_of(part: Mapping[str, str], whole: Mapping[str, str]) -> dict[str, Any] | None:
    """How many documents of how many are searched, and a hash of which; None if all are."""
    if len(part) == len(whole):
        return None
    return {"documents": len(part), "of": len(whole), "hash": content_hash(sorted(part))}


def overlaps(exact: Run, found: Run) -> dict[str, float]:
    """The share of each query's best documents by `exact` scores that are among its best in `found`."""

    def best(run: Run, query: str) -> set[str]:
        return set(rank(query, run[query])[:OVERLAP_DEPTH])

    return {query: len(best(exact, query) & best(found, query)) / max(len(best(exact, query)), 1) for query in exact}


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
