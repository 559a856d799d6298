"""Shared parts of all data sets: options, disjoint splits, candidates, and how a collection is assembled."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from data.candidates import BM25Candidates, CandidateSource, RunFileCandidates
from data.collection import JUDGED_LISTS, Collection, Judgements, Split, content_hash
from data.hashing import stable_hash
from data.option_names import current_node, in_node
from data.overlap import disjoint_splits
from data.own_document import OwnDocuments, announce, same_id_documents
from data.sampling.list_options import ListOptions
from data.store.texts import texts_digest, texts_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Texts:
    """The texts and judgements of a data set as read, before dev is held out and candidates are found."""

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: dict[str, Judgements]  # split -> query id -> document id -> grade
    excluded: dict[str, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SourceOptions(ABC):
    """Options of every data set."""

    dev_fraction: float = 0.1  # share of the training queries held out as dev
    cache_dir: str = "~/.cache/plackett"  # the folder of cached files
    candidates: CandidateSource = field(default_factory=BM25Candidates)
    lists: ListOptions = field(default_factory=ListOptions)
    query_prompt: str | None = None  # before every query; null: the model's own
    document_prompt: str | None = None  # before every document; null: the model's own
    rank_own_document: bool = False  # also rank the document that is the query itself
    relevant_from: float | None = None  # labels below it become 0, not relevant
    in_batch: bool = True  # losses with in-batch negatives compare its training lists with each other
    loss: Any = None  # in a mixture: of steps with its lists; null: the run's

    has_ids: ClassVar[bool] = True  # queries and documents have ids of their own; else they are known by their texts

    def __post_init__(self) -> None:
        if not 0 <= self.dev_fraction < 1:
            raise ValueError(f"data.dev_fraction={self.dev_fraction} must be in [0, 1)")
        if self.relevant_from is not None and not 0 < self.relevant_from < math.inf:
            raise ValueError(f"data.relevant_from={self.relevant_from} must be above 0 and finite")

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir).expanduser()

    @property
    def own_losses(self) -> Mapping[str, Any]:
        """The loss of each data set of a mixture by name, None for the run's. Other data have no loss of their own."""
        return {}

    def prompt_options(self) -> dict[str, str]:
        """The prompts that are set, by the name of the option."""
        prompts = {"query_prompt": self.query_prompt, "document_prompt": self.document_prompt}
        return {name: prompt for name, prompt in prompts.items() if prompt is not None}

    def map_sources(self, change: Callable[[SourceOptions], SourceOptions]) -> SourceOptions:
        """The changed options. (A mixture has several data sets to change.)"""
        return change(self)

    def evaluated_sets(self) -> Mapping[str, Any]:
        """The data sets that an evaluation measures one by one, by name: only this one, without a name. (A suite, and
        a folder that holds several, have more.)"""
        return {"": self}

    def for_evaluation(self, split: str) -> SourceOptions:
        """The options with which that split is evaluated and nothing is trained: no query is held out of it."""
        return self

    def check_place(self) -> None:
        """Raise FileNotFoundError or ValueError, as `build` does, if files that the options name are not there."""
        self.places()

    def for_encoding(self) -> SourceOptions:
        """The options with which the documents are encoded and no query is read: their whole texts."""
        return self

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The files that options name: option -> name of each file below that place -> file. A run is resumed if they
        have the same content, wherever they are. An option that is not listed must stay as it is."""
        return {}

    @abstractmethod
    def build(self) -> Collection:
        """Read the data set."""

    @property
    def stored_name(self) -> str:
        """The beginning of the name of the cache's folder for a large data set."""
        return "data"

    def build_stored(self, folder: Path) -> Collection:
        """Read a large data set in the process that converts it (`data.store.build`) to a folder: its documents are, if
        possible, stored ones. They may lie in the folder already, and other files beside it, which are removed."""
        return self.build()

    def assemble(self, name: str, texts: Texts) -> Collection:
        """Make the collection: splits without common queries, dev held out of train if there is none, candidates."""
        if not texts.documents:
            raise ValueError(f"data {name}: the corpus has no document")
        if not any(texts_of(texts.documents)):
            raise ValueError(f"data {name}: all {len(texts.documents)} documents of the corpus are empty")
        qrels, missing = self._splits(name, self._relevant(name, texts))
        queries = _queries_of(qrels, texts)
        own = {split: same_id_documents(texts.documents, queries[split], qrels[split]) for split in queries}
        left_out = self.left_out(name, own)
        unranked = {query: documents for split in left_out.values() for query, documents in split.items()}
        candidates = self.candidates.build(texts.documents, queries, self.cache, unranked)
        splits = {
            split: Split(queries[split], qrels[split], found, own_documents=left_out[split])
            for split, found in candidates.items()
        }
        ranked = ((query, [d for d, _ in found]) for split in candidates.values() for query, found in split.items())
        never = never_negatives(texts.excluded, own)
        excluded = {query: sorted(documents) for query, documents in never.items()}
        not_ranked = [sorted(unranked)] if unranked else []  # the fingerprint of other collections is as it was
        fingerprint = content_hash([texts_digest(texts.documents)], queries, qrels, ranked, excluded, *not_ranked)
        missing |= {
            split: in_node(
                f"data.candidates.path has no candidates for the {split} queries; add them to the file, or use "
                "data.candidates.others=bm25 (for these) or data/candidates=bm25 (for all)"
            )
            for split in queries
            if split not in candidates
        }
        return Collection(
            name,
            texts.documents,
            splits,
            fingerprint,
            never,
            missing,
            lists=self.lists,
            available=self._available(splits.get("train")),
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            in_batch=self.in_batch,
            node=current_node(),
        )

    def _relevant(self, name: str, texts: Texts) -> Texts:
        """The texts with the grades below `relevant_from` set to 0."""
        if self.relevant_from is None:
            return texts
        return replace(texts, qrels=relevant_grades(name, texts.qrels, self.relevant_from))

    def _splits(self, name: str, texts: Texts) -> tuple[Mapping[str, Judgements], dict[str, str]]:
        """The judgements of disjoint splits, and why a split is left without a query."""
        qrels, missing = disjoint_splits(name, _queries_of(texts.qrels, texts), texts.qrels)
        if "train" in qrels and "dev" not in texts.qrels:
            drawn = hold_out_dev(qrels, self.dev_fraction)
            qrels, emptied = disjoint_splits(name, _queries_of(drawn, texts), drawn)  # train may have copies of dev's
            missing |= emptied
        return qrels, missing

    def left_out(self, name: str, own: Mapping[str, OwnDocuments]) -> Mapping[str, OwnDocuments]:
        """The own documents by split that rankings leave out. One line says how many queries it concerns."""
        if self.rank_own_document:
            return {split: {} for split in own}
        announce(name, sum(map(len, own.values())))
        return own

    def _available(self, train: Split | None) -> frozenset[str]:
        """What training lists provide for a loss. Without negatives they hold a relevant document alone; the scores of
        a run file are teacher scores."""
        scores = {"teacher_scores"} if isinstance(self.candidates, RunFileCandidates) else set()
        if train is None or self.lists.random_fraction > 0 or any(_irrelevant_candidates(train)):
            return JUDGED_LISTS | scores | (unit_labels(train.qrels) if train else set())
        return frozenset({"positive"}) | scores


def _irrelevant_candidates(split: Split) -> Iterator[bool]:
    for query, found in split.candidates.items():
        yield any(split.qrels[query].get(document, 0) <= 0 for document, _ in found)


def never_negatives(excluded: Mapping[str, set[str]], own: Mapping[str, OwnDocuments]) -> dict[str, set[str]]:
    """The excluded documents of each query, and those that are the query itself."""
    merged = {query: set(documents) for query, documents in excluded.items()}
    for split in own.values():
        for query, documents in split.items():
            merged.setdefault(query, set()).update(documents)
    return merged


def relevant_grades(name: str, qrels: Mapping[str, Judgements], relevant_from: float) -> dict[str, Judgements]:
    """Set the grades below `relevant_from` to 0. Queries of dev and test that have no relevant document left are
    removed, with one warning. Raises ValueError if no grade is that high."""
    grades = (grade for split in qrels.values() for judged in split.values() for grade in judged.values())
    if (highest := max(grades, default=0)) < relevant_from:
        raise ValueError(f"data {name}: data.relevant_from={relevant_from:g} is above the highest grade, {highest}")
    kept: dict[str, Judgements] = {}
    for split, judged_queries in qrels.items():
        graded = {
            query: {document: grade if grade >= relevant_from else 0 for document, grade in judged.items()}
            for query, judged in judged_queries.items()
        }
        kept[split] = {query: judged for query, judged in graded.items() if split == "train" or any(judged.values())}
        if dropped := len(graded) - len(kept[split]):
            logger.warning("%s: %d %s queries without a grade of %g are left out", name, dropped, split, relevant_from)
    return {split: judged for split, judged in kept.items() if judged}


def unit_labels(train: Judgements) -> frozenset[str]:
    """{"unit_labels"} if no grade is above 1, as a loss with targets from 0 to 1 needs it; else nothing."""
    highest = max((grade for judged in train.values() for grade in judged.values()), default=0)
    return frozenset({"unit_labels"} if highest <= 1 else ())


def hold_out_dev(qrels: Mapping[str, Judgements], fraction: float) -> Mapping[str, Judgements]:
    """Divide train into train and dev. Dev gets the queries with the lowest hashes of ids, at least one if fraction >
    0."""
    train = qrels["train"]
    size = min(max(1, round(fraction * len(train))), len(train) - 1) if fraction > 0 else 0
    chosen = set(sorted(train, key=lambda query: stable_hash("dev", query))[:size])
    if not chosen:
        return qrels
    parts = {
        "train": {query: judged for query, judged in train.items() if query not in chosen},
        "dev": {query: judged for query, judged in train.items() if query in chosen},
    }
    return {**parts, **{split: judged for split, judged in qrels.items() if split not in parts}}


def _queries_of(qrels: Mapping[str, Judgements], texts: Texts) -> dict[str, dict[str, str]]:
    return {split: {query: texts.queries[query] for query in judged} for split, judged in qrels.items()}
