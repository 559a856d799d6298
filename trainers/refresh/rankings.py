"""Rank the documents of training queries by the model that is being trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.progress import show_progress
from data.sampling.training_lists import TrainingLists
from data.store.lists import QueryRows
from data.store.texts import texts_of
from evaluation.list_scorer import ListScorer
from evaluation.metrics import Run
from inference.encode import embed, tokenize_texts
from inference.runner import Runner, similarity_of
from inference.search import BlockSearch, index_for
from inference.vector_search import documents_at_once

QUERY_BLOCK = 256  # queries that are compared with a block of documents at once
PAIR_BLOCK = 16384  # pairs of a query and a document whose tokens are in memory at once

Ranked = tuple[np.ndarray, np.ndarray]  # rows of documents (uint32), best first, and their scores (float32)


def search_corpus(
    lists: TrainingLists,
    query_ids: Sequence[str],
    rows: Sequence[int],
    runner: Runner,
    *,
    depth: int,
    token_budget: int,
) -> list[Ranked]:
    """The `depth` best documents of each query among those of these `rows`, by the model's embeddings.

    Call it on all ranks; all get the same. Memory holds the embeddings of all queries, and of documents the texts,
    tokens and embeddings of one block.
    """
    tokenizer: Any = lists.tokenizer
    query_prompt, document_prompt = lists.prompts
    prompts = [lists.split.prompts.get(query, query_prompt) for query in query_ids]
    queries = tokenize_texts(tokenizer, [lists.queries[query] for query in query_ids], "query", prompts)
    similarity = similarity_of(runner.model)
    embedded = similarity.comparable(embed(runner, queries, tokenizer, token_budget))
    index = index_for("exact", similarity)
    search = BlockSearch(embedded, depth, query_block=QUERY_BLOCK, similarity=similarity, index=index)
    size = documents_at_once(similarity, embedded.shape[1], tokenizer)
    texts, starts = texts_of(lists.documents), range(0, len(rows), size)
    for start in show_progress(starts, "refreshing candidates", len(starts), "blocks"):
        block = [texts[row] for row in rows[start : start + size]]
        sequences = tokenize_texts(tokenizer, block, "document", [document_prompt] * len(block))
        search.add(similarity.comparable(embed(runner, sequences, tokenizer, token_budget)))
    scores, found = (values.cpu().numpy() for values in search.result())
    return list(zip(np.asarray(rows, dtype=np.uint32)[found], scores, strict=True))


def rescore_candidates(
    lists: TrainingLists, query_ids: Sequence[str], runner: Runner, *, depth: int, token_budget: int
) -> list[Ranked]:
    """The first `depth` candidates of the first stage for each query in the order of the model's scores; equal scores
    keep the order of the first stage. Call it on all ranks; all get the same."""
    find = QueryRows(lists.documents).find
    ranked: list[Ranked] = []
    blocks = list(_blocks(lists, query_ids, depth))
    for block in show_progress(blocks, "refreshing candidates", len(blocks), "blocks"):
        run = Window.of(lists, block).score(runner, token_budget) if any(map(len, block.values())) else block
        for scores in run.values():
            best = sorted(scores, key=lambda document: -scores[document])
            values = np.array([scores[document] for document in best], dtype=np.float32)
            ranked.append((np.array([find(document) for document in best], dtype=np.uint32), values))
    return ranked


@dataclass(frozen=True)
class Window(ListScorer):
    """The first candidates of some training queries, which a model scores."""

    documents: Any
    queries: Any
    query_prompts: Any
    document_prompt: str | None
    lists: Run
    tokenizer: Any

    @classmethod
    def of(cls, lists: TrainingLists, window: Run) -> Window:
        query_prompt, document_prompt = lists.prompts
        return cls(
            documents=lists.documents,
            queries={query: lists.queries[query] for query in window},
            query_prompts={query: lists.split.prompts.get(query, query_prompt) for query in window},
            document_prompt=document_prompt,
            lists=window,
            tokenizer=lists.tokenizer,
        )


def _blocks(lists: TrainingLists, query_ids: Sequence[str], depth: int) -> Iterator[Run]:
    """Yield the first candidates of the queries, in blocks of about `PAIR_BLOCK` pairs."""
    size = max(PAIR_BLOCK // depth, 1)
    for start in range(0, len(query_ids), size):
        yield {query: dict(lists.first_stage[query][:depth]) for query in query_ids[start : start + size]}
