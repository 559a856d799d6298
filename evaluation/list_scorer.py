"""Score the documents of each query's list by a model: a reranker's scores or an embedding model's similarities."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import TokenSequences
from data.truncation import Truncation
from evaluation.metrics import Run
from inference.encode import embed, tokenize_texts
from inference.runner import Runner, similarity_of
from inference.score import tokenize_sharded
from inference.shared_prefix import score_lists


class ListScorer:
    """What evaluators of given lists share. Texts are tokenised once, at the first call of `score`, a share per rank.

    If the tokenizer's layout is "pairs", `tokenizer(queries, documents)` gives what a reranker scores. If it is
    "texts", `tokenizer(texts, role=...)` gives what a bi-encoder embeds, and the similarity is the score.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    query_prompts: Mapping[str, str | None]
    document_prompt: str | None
    lists: Run  # query -> the documents that are scored, each with a number that is not read
    tokenizer: Any

    @cached_property
    def pairs(self) -> TokenSequences:
        """The tokenised (query, document) pairs, in the order of `lists`."""
        names = [(query, document) for query, documents in self.lists.items() for document in documents]
        sizes = [len(documents) for documents in self.lists.values()]
        return tokenize_sharded(lambda part: self._tokenize_pairs(names[part]), sizes)

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
        """Every document of some list -> its position in `texts` after the queries."""
        names = dict.fromkeys(document for documents in self.lists.values() for document in documents)
        return {document: position for position, document in enumerate(names)}

    def score(self, runner: Runner, token_budget: int) -> Run:
        """The scores of all lists' documents, the same on all ranks. Call it on all of them."""
        score = self._similarities if self.tokenizer.layout == "texts" else self._scores
        values = iter(score(runner, token_budget).tolist())
        return {query: {document: next(values) for document in documents} for query, documents in self.lists.items()}

    def truncation(self, queries: Container[str] | None = None) -> Truncation | None:
        """How many queries and documents were cut, of the lists of these queries (None: of all)."""
        chosen = [queries is None or query in queries for query in self.lists]
        if self.tokenizer.layout == "texts":
            read = {d for own, documents in zip(chosen, self.lists.values(), strict=True) if own for d in documents}
            rows = np.array(chosen + [document in read for document in self.candidates], dtype=bool)
            return Truncation.of_texts(self.texts.truncated, rows, len(self.queries))
        lost = self.pairs.truncated
        lengths = [len(documents) for documents in self.lists.values()]
        sizes = [size for size, own in zip(lengths, chosen, strict=True) if own]
        return Truncation.of_rows(None if lost is None else lost[np.repeat(chosen, lengths)], sizes, sum(sizes))

    def _tokenize_pairs(self, pairs: list[tuple[str, str]]) -> dict[str, list[list[int]]]:
        encoded = []
        for prompt, group in groupby(pairs, key=lambda pair: self.query_prompts[pair[0]]):
            queries, documents = zip(*group, strict=True)
            prompts = {"query_prompt": prompt, "document_prompt": self.document_prompt}
            set_prompts = {name: value for name, value in prompts.items() if value is not None}
            texts = [self.queries[query] for query in queries], [self.documents[document] for document in documents]
            encoded.append(self.tokenizer(*texts, **set_prompts))
        return {name: [row for part in encoded for row in part[name]] for name in encoded[0]}

    def _scores(self, runner: Runner, token_budget: int) -> Tensor:
        sizes = [len(documents) for documents in self.lists.values()]
        return score_lists(runner, self.pairs, sizes, self.tokenizer.padding, token_budget)

    def _similarities(self, runner: Runner, token_budget: int) -> Tensor:
        similarity = similarity_of(runner.model)
        embeddings = similarity.comparable(embed(runner, self.texts, self.tokenizer, token_budget))
        queries, documents = embeddings.split([len(self.queries), len(self.candidates)])
        chosen = [[self.candidates[document] for document in documents] for documents in self.lists.values()]
        pairs = zip(queries, chosen, strict=True)
        return torch.cat([similarity.pairs(query, documents[own]) for query, own in pairs])
