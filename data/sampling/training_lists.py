"""Training lists: the relevant documents of a query with hard and random negatives, sampled by key and tokenised."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from data.batch import ListExample, TokenSequences
from data.collection import Collection
from data.hashing import stable_hash, text_hash
from data.sampling.epoch_plan import UniqueTexts
from data.sampling.list_options import ListOptions

logger = logging.getLogger(__name__)


class ListTokenizer(Protocol):
    """Converts a list to rows of token ids. It must be picklable, because workers run it."""

    def encode_list(
        self, query: str, documents: list[str], *, query_prompt: str | None = None, document_prompt: str | None = None
    ) -> Mapping[str, Sequence[Sequence[int]]]:
        """Make unpadded rows: one per pair (query, document), or the query's row and then one per document.

        The prompts are put before the texts; one that is not passed is the model's own.
        """


class TrainingLists(Dataset):
    """The training lists of a collection. `lists[epoch, index]` is that of query `index` in an epoch, a function of
    (seed, epoch, query).

    A list has at most `list_size` documents in random order: relevant ones, candidates of the first stage (with their
    grade if they are judged relevant), and random documents of the corpus. Random documents also replace missing
    candidates unless `random_fraction` is 0. A document that is excluded or has the text of a relevant one is never a
    negative.

    `auxiliary` holds the tokenizers of auxiliary models (a teacher, a guide) by role.
    """

    def __init__(
        self,
        collection: Collection,
        tokenizer: ListTokenizer,
        *,
        list_size: int,
        seed: int,
        options: ListOptions,
        auxiliary: Mapping[str, ListTokenizer] | None = None,
        source: str = "",
    ) -> None:
        if list_size < 1:
            raise ValueError(f"trainer.list_size={list_size} must be at least 1")
        self.split = collection.split("train")
        self.source = source or collection.name
        self.documents = collection.documents
        self.document_ids = list(collection.documents)
        self.excluded = collection.excluded
        self.queries, self.candidates = self.split.queries, self.split.candidates
        judged: Mapping[str, Mapping[str, float]] = self.split.labels or self.split.qrels
        self.relevant = {query: {d: g for d, g in grades.items() if g > 0} for query, grades in judged.items()}
        keeps_all = collection.keep_queries_without_positives
        self.query_ids = [query for query in self.queries if keeps_all or self.relevant.get(query)]
        self.tokenizer, self.auxiliary = tokenizer, dict(auxiliary or {})
        self.list_size, self.seed, self.options = list_size, seed, options
        self.prompts = (collection.query_prompt, collection.document_prompt)
        self._document_hashes: dict[str, int] = {}  # hashes of document texts that a plan has needed, by document id
        skipped = len(self.queries) - len(self.query_ids)
        if skipped:
            logger.warning("%s: %d train queries without a relevant document are skipped", collection.name, skipped)

    def __len__(self) -> int:
        return len(self.query_ids)

    def __getitem__(self, key: tuple[int, int]) -> ListExample:
        epoch, index = key
        query_id = self.query_ids[index]
        document_ids = self.sample(epoch, query_id)
        grades, scores = self.relevant.get(query_id, {}), dict(self.candidates[query_id])
        query, texts = self.queries[query_id], [self.documents[document_id] for document_id in document_ids]
        encoding = self.tokenizer.encode_list(query, texts, **self._prompts(query_id))
        return ListExample(
            query_id=query_id,
            document_ids=document_ids,
            labels=np.array([grades.get(document_id, 0) for document_id in document_ids], dtype=np.float32),
            teacher_scores=np.array([scores.get(d, np.nan) for d in document_ids], dtype=np.float32),
            sequences=TokenSequences.from_encoding(encoding),
            query_hash=text_hash(query),
            document_hashes=np.array([text_hash(text) for text in texts], dtype=np.int64),
            weight=self.split.weights.get(query_id, 1.0),
            auxiliary={
                name: TokenSequences.from_encoding(tokenizer.encode_list(query, texts))
                for name, tokenizer in self.auxiliary.items()
            },
            source=self.source,
        )

    def unique_texts(self) -> UniqueTexts:
        """The texts that only one list of a batch may have: the query and the relevant documents of its list, or with
        `data.lists.no_duplicates` all documents of its list."""
        if self.options.no_duplicates:
            return UniqueTexts(self._unique_hashes, "query or document", " or set data.lists.no_duplicates=false")
        return UniqueTexts(self._unique_hashes, "query or relevant document")

    def sample(self, epoch: int, query_id: str) -> list[str]:
        """Sample the document ids of one list."""
        rng = np.random.default_rng(stable_hash("list", self.seed, epoch, query_id))
        relevant = self.relevant.get(query_id, {})
        best_first = sorted(_shuffled(list(relevant), rng), key=lambda document_id: -relevant[document_id])
        chosen = best_first[: min(self.options.positives, max(1, self.list_size - 1))]
        others = self.list_size - len(chosen)
        hard = _shuffled(self._eligible_candidates(query_id, set(chosen)), rng)
        chosen += hard[: others - round(self.options.random_fraction * others)]
        if self.options.random_fraction > 0:
            chosen += self._random_negatives(query_id, chosen, rng)
        return _shuffled(chosen, rng)

    def _unique_hashes(self, epoch: int, index: int) -> set[int]:
        query_id = self.query_ids[index]
        relevant = self.relevant.get(query_id, {})
        drawn: Iterable[str]
        if self.options.no_duplicates:
            drawn = self.sample(epoch, query_id)
        elif len(relevant) > 1:
            drawn = [document_id for document_id in self.sample(epoch, query_id) if document_id in relevant]
        else:
            drawn = relevant
        query = -1 - text_hash(self.queries[query_id])  # negative, since a query may have the text of a document
        return {query, *map(self._document_hash, drawn)}

    def _document_hash(self, document_id: str) -> int:
        found = self._document_hashes.get(document_id)
        if found is None:
            found = self._document_hashes[document_id] = text_hash(self.documents[document_id])
        return found

    def _prompts(self, query_id: str) -> dict[str, str]:
        """The prompts that are set. A query's own prompt replaces the data set's."""
        query, document = self.prompts
        prompts = {"query_prompt": self.split.prompts.get(query_id, query), "document_prompt": document}
        return {name: prompt for name, prompt in prompts.items() if prompt is not None}

    def _eligible_candidates(self, query_id: str, chosen: set[str]) -> list[str]:
        """The first candidates that may be added: not chosen, not excluded, and not an unjudged copy of a relevant
        document."""
        relevant, excluded = self.relevant.get(query_id, {}), self.excluded.get(query_id, set())
        relevant_texts = self._relevant_texts(query_id)
        first = [document_id for document_id, _ in self.candidates[query_id][: self.options.hard_depth]]
        return [
            document_id
            for document_id in first
            if document_id not in chosen
            and document_id not in excluded
            and (document_id in relevant or self.documents[document_id] not in relevant_texts)
        ]

    def _random_negatives(self, query_id: str, chosen: list[str], rng: np.random.Generator) -> list[str]:
        """Sample different random documents for the rest of the list: none is relevant, a copy of a relevant one, or
        excluded."""
        places = self.list_size - len(chosen)
        blocked = {*chosen, *self.relevant.get(query_id, {}), *self.excluded.get(query_id, set())}
        relevant_texts = self._relevant_texts(query_id)
        total = len(self.document_ids)
        size = min(total, places + len(blocked))
        while True:
            drawn = [self.document_ids[i] for i in rng.choice(total, size=size, replace=False).tolist()]
            negatives = [d for d in drawn if d not in blocked and self.documents[d] not in relevant_texts]
            if len(negatives) >= places or size == total:
                return negatives[:places]
            size = min(total, 2 * size)  # too many were blocked or copies: sample more

    def _relevant_texts(self, query_id: str) -> set[str]:
        return {self.documents[document_id] for document_id in self.relevant.get(query_id, {})}


def _shuffled(items: list[str], rng: np.random.Generator) -> list[str]:
    return [items[i] for i in rng.permutation(len(items)).tolist()]
