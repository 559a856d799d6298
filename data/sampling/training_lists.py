"""Training lists: the relevant documents of a query with hard and random negatives, sampled by key and tokenised."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from data.batch import ListExample, TokenSequences
from data.collection import Candidates, Collection
from data.hashing import stable_hash
from data.option_names import rename_options
from data.sampling.epoch_plan import UniqueTexts
from data.sampling.list_options import ListOptions
from data.sampling.never_negatives import NeverNegatives, text_key
from data.sampling.refreshed import RefreshedCandidates
from data.store.texts import ids_of

logger = logging.getLogger(__name__)


class ListTokenizer(Protocol):
    """Converts a list to rows of token ids. It must be picklable, because workers run it."""

    def encode_list(
        self, query: str, documents: list[str], *, query_prompt: str | None = None, document_prompt: str | None = None
    ) -> Mapping[str, Sequence[Sequence[int]]]:
        """Make unpadded rows: one per pair (query, document), or the query's row and then one per document.

        The prompts are put before the texts; one that is not passed is the model's own.
        """


def trained_queries(collection: Collection) -> list[str]:
    """The training queries that get a list: those with a relevant document, or all if the data keep the others."""
    split, keeps_all = collection.split("train"), collection.keep_queries_without_positives
    judged = split.judgements
    return [query for query in split.queries if keeps_all or any(grade > 0 for grade in judged.get(query, {}).values())]


class TrainingLists(Dataset):
    """The training lists of a collection. `lists[epoch, index]` is that of query `index` in an epoch, a function of
    (seed, epoch, query).

    A list has at most `list_size` documents in random order: relevant ones, candidates of the first stage, and random
    documents of the corpus. Random documents also replace missing candidates unless `random_fraction` is 0. If there
    are two places and a negative, a list holds one. A text of `never_negatives` is none. If labels are degrees of
    similarity, a list holds documents of the query's own, drawn at random.

    `auxiliary` holds the tokenizers of auxiliary models (a teacher, a guide) by role. `never_negatives`, which are
    those of the collection if they are not passed, know it as `source`.
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
        never_negatives: NeverNegatives | None = None,
    ) -> None:
        if list_size < 1:
            raise ValueError(f"trainer.list_size={list_size} must be at least 1")
        self.node, self.in_batch = collection.node, collection.in_batch
        self.split = collection.split("train")
        self.source = source or collection.name
        self.documents = collection.documents
        self.document_ids = ids_of(collection.documents)
        self.excluded = collection.excluded
        self.queries, self.first_stage = self.split.queries, self.split.candidates
        self.candidates: Candidates = self.first_stage
        self.judgements = self.split.judgements
        self.query_ids = trained_queries(collection)
        self.tokenizer, self.auxiliary = tokenizer, dict(auxiliary or {})
        self.list_size, self.seed, self.options = list_size, seed, options
        self.prompts = (collection.query_prompt, collection.document_prompt)
        self.never_negatives = never_negatives or NeverNegatives({self.source: collection})
        self.texts = self.never_negatives.sources[self.source]
        skipped = len(self.queries) - len(self.query_ids)
        if skipped:
            logger.warning("%s: %d train queries without a relevant document are skipped", collection.name, skipped)

    def __len__(self) -> int:
        return len(self.query_ids)

    @property
    def sources(self) -> Mapping[str, TrainingLists]:
        """The lists by data set: these. (A mixture has several.)"""
        return {self.source: self}

    def refresh(self, refreshed: Candidates | None) -> None:
        """Put the `refreshed` candidates of queries before those of the first stage; None: the latter alone."""
        self.candidates = self.first_stage if refreshed is None else RefreshedCandidates(refreshed, self.first_stage)

    def relevant(self, query_id: str) -> dict[str, float]:
        """The relevant documents of a query and their grades."""
        return {document: grade for document, grade in self.judgements.get(query_id, {}).items() if grade > 0}

    def __getitem__(self, key: tuple[int, int]) -> ListExample:
        epoch, index = key
        return self.make(epoch, self.query_ids[index])

    def make(self, epoch: int, query_id: str, attempt: int = 0) -> ListExample:
        """Make the list of a query in an epoch. `attempt`: see `sample`."""
        document_ids = self.sample(epoch, query_id, attempt)
        # Scores of refreshed candidates are the trained model's own: they teach it nothing.
        grades, scores = self.relevant(query_id), dict(self.first_stage[query_id])
        query, texts = self.queries[query_id], [self.documents[document_id] for document_id in document_ids]
        encoding = self.tokenizer.encode_list(query, texts, **self._prompts(query_id))
        return ListExample(
            query_id=query_id,
            document_ids=document_ids,
            labels=np.array([grades.get(document_id, 0) for document_id in document_ids], dtype=np.float32),
            teacher_scores=np.array([scores.get(d, np.nan) for d in document_ids], dtype=np.float32),
            sequences=TokenSequences.from_encoding(encoding),
            query_hash=text_key(query),
            document_hashes=np.array([self.texts.key(document_id) for document_id in document_ids], dtype=np.int64),
            weight=self.split.weights.get(query_id, 1.0),
            auxiliary={
                name: TokenSequences.from_encoding(tokenizer.encode_list(query, texts))
                for name, tokenizer in self.auxiliary.items()
            },
            source=self.source,
            epoch=epoch,
            isolated=not self.in_batch,
            never_negatives=np.array(sorted(self.never_negatives.of(self.source, query_id)), dtype=np.int64),
        )

    def unique_texts(self) -> UniqueTexts:
        """The texts that only one list of a batch may have: the query and the relevant documents of its list, or with
        `data.lists.no_duplicates` all documents of its list."""
        fewer = UniqueTexts(partial(self._unique_hashes, False), "query or relevant document")
        if not self.options.no_duplicates:
            return fewer
        return UniqueTexts(partial(self._unique_hashes, True), "query or document", fewer)

    def note_unused_grades(self) -> None:
        """Log a note if relevant documents have several grades, and lists hold the best of them alone."""
        limit = self.options.positives
        if limit is None:
            return
        judged = map(self.relevant, self.judgements)
        levels = {grade for grades in judged if len(grades) > limit for grade in grades.values()}
        if len(levels) > 1:
            logger.warning(
                "%s: relevant documents have %d grades; a list holds at most %s.lists.positives=%s of them, the best "
                "(%s draws all grades)",
                self.source,
                len(levels),
                self.node,
                limit,
                rename_options("data/lists=graded", self.node),
            )

    def sample(self, epoch: int, query_id: str, attempt: int = 0) -> list[str]:
        """Sample the document ids of one list. Each `attempt` above 0 gives another list, whose negatives are
        candidates: random ones only have the places of candidates that are missing."""
        key = (attempt,) if attempt else ()
        rng = np.random.default_rng(stable_hash("list", self.seed, epoch, query_id, *key))
        if self.split.degrees:  # no document is a negative, and none may be added
            return self._own_documents(self.split.judgements[query_id], rng)
        relevant, limit = self.relevant(query_id), self.options.positives
        never = self.never_negatives.of(self.source, query_id)
        best_first = sorted(_shuffled(list(relevant), rng), key=lambda document_id: -relevant[document_id])
        chosen = best_first[: min(limit or 1, max(1, self.list_size - 1))]
        others = self.list_size - len(chosen)
        num_candidates = others if attempt else others - round(self.options.random_fraction * others)
        chosen += self._candidates(query_id, set(chosen), never, num_candidates, rng)
        if self.options.random_fraction > 0:
            chosen += self._random_negatives(query_id, chosen, never, rng)
        # Where negatives are missing, relevant documents have their places, up to the limit.
        allowed = len(relevant) if limit is None else limit
        rest = [document_id for document_id in best_first if document_id not in chosen]
        num_relevant = len(relevant) - len(rest)
        chosen += rest[: max(0, min(allowed - num_relevant, self.list_size - len(chosen)))]
        return _shuffled(chosen, rng)

    def _own_documents(self, labels: Mapping[str, float], rng: np.random.Generator) -> list[str]:
        """Sample from the documents of a query whose labels are degrees of similarity."""
        shuffled = _shuffled(list(labels), rng)
        if self.options.sampling == "random":
            return shuffled[: self.list_size]
        best_first = sorted(shuffled, key=lambda document_id: -labels[document_id])
        return _shuffled(_over_quantiles(best_first, self.list_size, rng), rng)

    def _unique_hashes(self, all_documents: bool, epoch: int, index: int) -> set[int]:
        query_id = self.query_ids[index]
        relevant = self.relevant(query_id)
        drawn: Iterable[str]
        if all_documents:
            drawn = self.sample(epoch, query_id)
        elif len(relevant) > 1:
            drawn = [document_id for document_id in self.sample(epoch, query_id) if document_id in relevant]
        else:
            drawn = relevant
        query = -1 - text_key(self.queries[query_id])  # negative, since a query may have the text of a document
        return {query, *map(self.texts.key, drawn)}

    def _prompts(self, query_id: str) -> dict[str, str]:
        """The prompts that are set. A query's own prompt replaces the data set's."""
        query, document = self.prompts
        prompts = {"query_prompt": self.split.prompts.get(query_id, query), "document_prompt": document}
        return {name: prompt for name, prompt in prompts.items() if prompt is not None}

    def _candidates(
        self, query_id: str, chosen: set[str], never: set[int], places: int, rng: np.random.Generator
    ) -> list[str]:
        """Sample from the first candidates that may be added. Without a limit of relevant documents these may be
        relevant too, but leave a place to a negative. If none is among the first, the next one below them is taken."""
        relevant, excluded = self.relevant(query_id), self.excluded.get(query_id, set())
        ranked = [document_id for document_id, _ in self.candidates[query_id]]
        left = [d for d in ranked[: self.options.hard_depth] if d not in chosen and d not in excluded]
        if self.options.positives is not None:
            left = [d for d in left if d not in relevant]

        def is_negative(document_id: str) -> bool:
            return (
                document_id not in relevant
                and document_id not in excluded
                and (not relevant or self.texts.key(document_id) not in never)
            )  # a list without a relevant document (labels of 0, a teacher's scores) has no negatives: it stays whole

        if self.options.sampling == "quantile":
            left = self._evenly(query_id, [d for d in left if d in relevant or is_negative(d)], places, rng)
        else:
            left = _shuffled(left, rng)
        addable = (d for d in left if d in relevant or is_negative(d))
        drawn = list(islice(addable, places))
        if places > 0 and all(d in relevant for d in drawn):
            others = chain(addable, ranked[self.options.hard_depth :])
            negative = next((d for d in others if is_negative(d)), None)
            if len(drawn) == places and (negative is not None or self.options.random_fraction > 0):
                drawn.pop()  # without such a candidate, a random document has its place
            drawn += [] if negative is None else [negative]
        return drawn

    def _evenly(self, query_id: str, ranked: list[str], places: int, rng: np.random.Generator) -> list[str]:
        """The candidates `ranked`, first one of each of `places` equal parts of their order by the scores of the data,
        then the others at random. Equal scores, and refreshed candidates, are in the order of their ranks."""
        if self.candidates is self.first_stage:
            scores = dict(self.first_stage[query_id])
            ranked = sorted(ranked, key=lambda document_id: _descending(scores[document_id]))
        first = _over_quantiles(ranked, places, rng)
        taken = set(first)
        return first + _shuffled([d for d in ranked if d not in taken], rng)

    def _random_negatives(
        self, query_id: str, chosen: list[str], never: set[int], rng: np.random.Generator
    ) -> list[str]:
        """Sample different random documents for the rest of the list, none of which is chosen or never a negative."""
        places = self.list_size - len(chosen)
        blocked = {*chosen, *self.relevant(query_id), *self.excluded.get(query_id, set())}
        total = len(self.document_ids)
        size = min(total, places + len(blocked))
        while True:
            drawn = [self.document_ids[i] for i in rng.choice(total, size=size, replace=False).tolist()]
            addable = (d for d in drawn if d not in blocked and self.texts.key(d) not in never)
            negatives = list(islice(addable, places))
            if len(negatives) >= places or size == total:
                return negatives
            size = min(total, 2 * size)  # too many were blocked or copies: sample more


def _shuffled(items: list[str], rng: np.random.Generator) -> list[str]:
    return [items[i] for i in rng.permutation(len(items)).tolist()]


def _descending(score: float) -> float:
    """A key that sorts scores in descending order, with those that are missing (NaN) last."""
    return np.inf if np.isnan(score) else -score


def _over_quantiles(ordered: list[str], places: int, rng: np.random.Generator) -> list[str]:
    """One item, at random, from each of `places` parts of `ordered`, whose sizes differ by 1 at most; all if they are
    no more."""
    if places <= 0 or len(ordered) <= places:
        return ordered
    bounds = np.arange(places + 1) * len(ordered) // places
    return [ordered[index] for index in rng.integers(bounds[:-1], bounds[1:]).tolist()]
