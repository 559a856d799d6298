"""Score the windows of queries by a reranker or an embedding model, block by block, kept in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from data.progress import show_progress
from data.store.texts import ids_of
from evaluation.list_scorer import ListScorer
from inference.runner import Runner
from recipes.negatives.stored import StoredParts, ragged, unragged

BLOCK = 64  # queries that are scored at once: what a killed process loses

Lists = Sequence[tuple[str, np.ndarray]]  # query id, rows of the documents that are scored


class ScoredLists(ListScorer):
    """The lists of some queries, which a model scores: raw logits, or the similarities of embeddings."""

    def __init__(self, lists: Lists, rescorer: Rescorer) -> None:
        self.documents, self.tokenizer = rescorer.documents, rescorer.tokenizer
        self.document_prompt = rescorer.document_prompt
        self.queries = {query: rescorer.queries[query] for query, _ in lists}
        self.query_prompts = {query: rescorer.prompts.get(query, rescorer.query_prompt) for query, _ in lists}
        self.lists = {query: dict.fromkeys(map(rescorer.ids.__getitem__, rows.tolist()), 0.0) for query, rows in lists}


@dataclass(frozen=True)
class Rescorer:
    """Scores documents of the corpus for queries of the split. `prompts` are those of single queries."""

    name: str
    runner: Runner
    tokenizer: Any
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    prompts: Mapping[str, str]
    query_prompt: str | None
    document_prompt: str | None
    token_budget: int
    parts: StoredParts

    @cached_property
    def ids(self) -> Sequence[str]:
        return ids_of(self.documents)

    def score(self, first: int, lists: Lists) -> list[np.ndarray]:
        """The scores (float32) of the lists of queries from number `first`, a multiple of BLOCK, on. All ranks call it,
        and get the same."""
        starts = range(0, len(lists), BLOCK)
        found: list[np.ndarray] = []
        for start in show_progress(starts, "rescoring", len(starts), "blocks"):
            block = partial(self._scored, lists[start : start + BLOCK])
            arrays = self.parts.get((first + start) // BLOCK, block)
            found += unragged(arrays["scores"], arrays["ends"])
        return found

    def _scored(self, block: Lists) -> dict[str, np.ndarray]:
        some = [(query, rows) for query, rows in block if len(rows)]
        run = ScoredLists(some, self).score(self.runner, self.token_budget) if some else {}
        scores = [
            np.array([run[query][self.ids[row]] for row in rows.tolist()], dtype=np.float32) for query, rows in block
        ]
        joined, ends = ragged(scores, np.float32)
        return {"scores": joined, "ends": ends}
