"""Read lists of documents from files of any format of this package, in any layout of columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from data.candidates import CandidateSource, ListedCandidates, RunFileCandidates
from data.collection import SPLITS, Candidates, Collection, Split, content_hash
from data.degrees import degrees_of
from data.formats.columns import ListRecord
from data.formats.file_format import FileFormat, file_formats
from data.formats.grouping import (
    QueryGroup,
    available_requirements,
    copies_in_lists,
    evaluated_queries,
    group_by_query,
    hold_out,
    labels_of,
)
from data.formats.layouts import NAMES
from data.formats.reader import FileReader, Paths, id_fields
from data.formats.skipped import SkippedRows, check_on_error
from data.formats.swapped import warn_of_swapped
from data.hashing import stable_hash
from data.option_names import current_node, in_node
from data.overlap import disjoint_splits
from data.own_document import OwnDocuments, equal_documents
from data.sampling.list_options import ListOptions
from data.source import SourceOptions, never_negatives
from data.store.build import stored_if_large

# Factor of labels that are not integers, to make grades: nDCG with linear gain does not depend on it.
LABEL_FACTOR = 100

Lists = Mapping[str, QueryGroup]  # query id -> its list


@dataclass(frozen=True, kw_only=True)
class FileConfig(SourceOptions):
    """Labelled or positive pairs, tuples, graded or scored lists, or preferences (see `data.formats.columns`).

    A training list holds the documents of its rows, and others only if `lists` or `candidates` add them. The candidates
    of held-out queries are their own documents if at least half of these queries list documents of different labels,
    else those of BM25.

    Labels that are degrees of similarity (`data.degrees.degrees_of`) are kept as they are: a list then holds its own
    documents only, and held-out pairs are measured by eval=similarity. With `relevant_from` they are relevance.

    `path` is a file, a folder, a glob, or a hub id. A row that cannot be read stops the reading, or with
    on_error="skip" is left out and noted in the collection's `skipped`.
    """

    path: str
    dev_path: str | None = None
    test_path: str | None = None
    test_fraction: float = 0.1
    corpus_path: str | None = None  # the texts of documents that rows name by id
    queries_path: str | None = None  # the texts of queries that rows name by id
    subset: str | None = None  # of a data set of the hub
    hub_split: str | None = None  # the split of the hub that is train; null: those called train, validation and test
    on_error: str = "stop"
    max_held_out: int = 1000
    columns: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    candidates: CandidateSource = field(default_factory=ListedCandidates)
    lists: ListOptions = field(
        default_factory=lambda: ListOptions(positives=None, random_fraction=0.0, hard_depth=1000)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.test_fraction < 1 - self.dev_fraction:
            raise ValueError(f"data.test_fraction={self.test_fraction} must be in [0, 1 - data.dev_fraction)")
        if self.max_held_out < 1:
            raise ValueError(f"data.max_held_out={self.max_held_out} must be at least 1")
        valid = (*NAMES, *id_fields())
        unknown = [name for name in self.columns if name not in valid]
        if unknown:
            raise ValueError(f"data.columns.{unknown[0]} is no field of a row: valid: {', '.join(valid)}")
        check_on_error(self.on_error)
        if isinstance(self.candidates, RunFileCandidates):
            raise ValueError(
                "data/candidates=run names queries and documents by ids, which data=file does not have: put scores "
                "beside the documents in the file, or use data=beir"
            )

    def formats(self) -> tuple[FileFormat, ...]:
        """The formats that are tried, those of `data.formats`. A subclass may put its own before them."""
        return file_formats()

    def reader(self) -> FileReader:
        """The reader of the rows of all splits."""
        options = {part.name: getattr(self, part.name) for part in fields(Paths)}
        return FileReader(Paths(**options), self.formats(), self.columns, self.ignore, SkippedRows(self.on_error))

    def records(self, split: str = "train") -> Iterator[ListRecord]:
        """Read the rows of the files of one split."""
        return self.reader().records(split)

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        return self.reader().places()

    def build(self) -> Collection:
        return stored_if_large(self, self.places(), self.build_stored)

    @property
    def stored_name(self) -> str:
        return Path(self.path).name.replace("*", "-")

    def build_stored(self) -> Collection:
        reader = self.reader()
        reader.announce()
        documents: dict[str, str] = {}
        read = {
            split: group_by_query(reader.records(split), documents, self.relevant_from, reader.skipped)
            for split in reader.splits
        }
        reader.skipped.announce(self._name)
        lists, files = read["train"], {split: found for split, found in read.items() if split != "train"}
        if not lists:
            reason = f"all its rows are left out, the first: {reader.skipped.first}" if reader.skipped.rows else ""
            raise ValueError(f"data.path={self.path}: {reason or 'it has no rows'}")
        warn_of_swapped(self._name, lists, documents, self.columns)
        shares = {"test": self.test_fraction, "dev": self.dev_fraction}
        shares = {split: share for split, share in shares.items() if split not in files}
        degrees = self._degrees_of_splits(lists, files)
        members, missing = self._members(lists, files, shares, documents, degrees)
        self._check_relevant_from([entry for found in (lists, *files.values()) for entry in found.values()])
        collection = self._collection(documents, members, missing, degrees)
        return replace(collection, skipped=tuple(reader.skipped.rows))

    def _members(
        self,
        lists: Lists,
        files: Mapping[str, Lists],
        shares: Mapping[str, float],
        documents: Mapping[str, str],
        degrees: Mapping[str, str],
    ) -> tuple[dict[str, dict[str, QueryGroup]], dict[str, str]]:
        """The lists of disjoint splits: those of the files of dev and test, and `shares` of `lists`. Also why a split
        is left without a query."""
        kept, missing = _disjoint(self._name, {"train": lists, **files})
        train = kept.pop("train", {})
        held_out = hold_out(train, documents, shares, self.max_held_out, bool(degrees["train"]))
        drawn = {split: {query_id: train[query_id] for query_id in ids} for split, ids in held_out.items()}
        # A list that cannot be evaluated is not drawn: one with the query of a drawn list is dropped here.
        members, emptied = _disjoint(self._name, {**kept, **drawn})
        for split in files.keys() & members.keys():
            parts = evaluated_queries(members[split], bool(degrees[split]))
            chosen = [query_id for part in parts for query_id in part]
            members[split] = {query_id: members[split][query_id] for query_id in chosen}
        members = {split: lists for split, lists in members.items() if lists}
        none = {split: _why_none(split, share, len(lists)) for split, share in shares.items() if split not in members}
        return members, none | missing | emptied

    @property
    def _name(self) -> str:
        return Path(self.path).name

    def _degrees(self, lists: Lists) -> str:
        return "" if self.relevant_from is not None else degrees_of(labels_of(lists))

    def _degrees_of_splits(self, lists: Lists, files: Mapping[str, Lists]) -> dict[str, str]:
        """Why the labels of each split are degrees of similarity. A held-out file shares the scale of the others: in
        few of its rows, ratings may look like relevance. Labels 0 and 1 alone are relevance."""
        found = {split: self._degrees(read) for split, read in {"train": lists, **files}.items()}
        known = next((split for split, reason in found.items() if reason), None)
        for split, read in files.items():
            levels = {label for entry in read.values() if entry.has_label_column for label in entry.labels.values()}
            if known is not None and not found[split] and levels - {0.0, 1.0}:
                found[split] = f"{found[known]} in data.{'path' if known == 'train' else f'{known}_path'}"
        return dict.fromkeys(SPLITS, found["train"]) | found

    def _check_relevant_from(self, lists: Sequence[QueryGroup]) -> None:
        labels = [entry.labels.values() for entry in lists if entry.has_label_column]
        if self.relevant_from is not None and not any(label > 0 for values in labels for label in values):
            reason = "no label is that high" if labels else "no row has a label"
            raise ValueError(f"data.relevant_from={self.relevant_from:g}: {reason} in {self.path}")

    def _collection(
        self,
        documents: dict[str, str],
        members: Mapping[str, Lists],
        missing: Mapping[str, str],
        degrees: Mapping[str, str],
    ) -> Collection:
        adds_documents = self._adds_candidates or self.lists.random_fraction > 0
        levels = {label for lists in members.values() for entry in lists.values() for label in entry.labels.values()}
        scale = 1 if all(level.is_integer() for level in levels) else LABEL_FACTOR
        own = {split: {} if degrees[split] else _own_documents(documents, lists) for split, lists in members.items()}
        left_out = self.left_out(self._name, own)
        splits = {
            split: Split(
                queries={query_id: entry.query for query_id, entry in lists.items()},
                qrels={
                    query_id: entry.grades(scale)
                    for query_id, entry in lists.items()
                    if split == "train" or entry.can_be_evaluated
                },
                candidates=self._candidates(split, documents, lists, left_out[split], bool(degrees[split])),
                weights={query_id: entry.weight for query_id, entry in lists.items() if entry.weight != 1},
                prompts={query_id: entry.prompt for query_id, entry in lists.items() if entry.prompt is not None},
                labels=_labels(split, lists, exact=bool(degrees[split]) or scale != 1),
                own_documents=left_out[split],
                degrees=degrees[split],
                ranked=split == "train" or self._are_ranked(lists, bool(degrees[split])),
                listed=split != "train" and (bool(degrees[split]) or self._ranks_own_documents(lists)),
            )
            for split, lists in members.items()
        }
        parts: list[Mapping[str, object] | list[str]] = [
            part
            for split in splits.values()
            for part in (split.queries, split.labels or split.qrels, split.candidates, split.weights, split.prompts)
        ]
        parts += [sorted(split.own_documents) for split in splits.values() if split.own_documents]
        train = members.get("train", {})
        copies = {} if degrees["train"] else copies_in_lists(train, documents)
        return Collection(
            self._name,
            documents,
            splits,
            content_hash(documents, *parts),
            never_negatives({}, own),
            missing=missing,
            lists=self.lists,
            available=available_requirements(train, adds_documents, degrees["train"], copies),
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            keep_queries_without_positives=not all(entry.has_positive for entry in train.values()),
            in_batch=self.in_batch,
            node=current_node(),
        )

    @property
    def _adds_candidates(self) -> bool:
        return not isinstance(self.candidates, ListedCandidates)

    def _ranks_own_documents(self, lists: Lists) -> bool:
        """Whether the candidates of held-out queries are the documents that are listed with each."""
        ranked = [entry for entry in lists.values() if entry.can_be_evaluated]
        return not self._adds_candidates and sum(entry.compares for entry in ranked) * 2 >= len(ranked)

    def _are_ranked(self, lists: Lists, degrees: bool) -> bool:
        """Whether the candidates of held-out queries are ranked: by BM25, or by a teacher's scores of all of them."""
        scored = all(entry.is_scored for entry in lists.values() if entry.can_be_evaluated)
        return scored or not (degrees or self._ranks_own_documents(lists))

    def _candidates(
        self, split: str, documents: Mapping[str, str], lists: Lists, left_out: OwnDocuments, degrees: bool
    ) -> Candidates:
        """The candidates of a split's queries.

        For train: the listed documents with the teacher's scores, then those that another source adds. For dev and
        test: the listed documents in random order with score 0 (or the teacher's scores, if there are labels too), or
        the candidates of the source. Queries without a relevant document have none, since no ranking is measured.
        """
        train = split == "train"
        ranked = {query_id: entry for query_id, entry in lists.items() if train or entry.can_be_evaluated}
        own = train or degrees or self._ranks_own_documents(lists)
        found: Candidates = {}
        if not own or (train and self._adds_candidates):
            queries = {split: {query_id: entry.query for query_id, entry in ranked.items()}}
            found = self.candidates.build(documents, queries, self.cache, left_out)[split]
        empty: Candidates = {query_id: [] for query_id in lists if query_id not in ranked}
        if not own:
            return {**found, **empty}
        if train:
            return {
                query_id: [*entry.scores.items(), *_unscored(found.get(query_id, []), entry)]
                for query_id, entry in lists.items()
            }
        return {**{query_id: _ranked(query_id, entry) for query_id, entry in ranked.items()}, **empty}


def _labels(split: str, lists: Mapping[str, QueryGroup], *, exact: bool) -> dict[str, dict[str, float]]:
    """The labels of a split: those of dev and test only if `exact` ones are needed, or the grades do not have all."""
    if split == "train":
        return {query_id: entry.labels for query_id, entry in lists.items()}
    return labels_of(lists) if exact or not all(entry.can_be_evaluated for entry in lists.values()) else {}


def _disjoint(name: str, splits: Mapping[str, Lists]) -> tuple[dict[str, dict[str, QueryGroup]], dict[str, str]]:
    texts = {split: {query_id: entry.query for query_id, entry in lists.items()} for split, lists in splits.items()}
    return disjoint_splits(name, texts, splits)


def _why_none(split: str, share: float, num_lists: int) -> str:
    """Why no query was held out as that split."""
    reason = f"data.{split}_fraction=0"
    if share > 0:
        reason = f"its {num_lists} queries are too few, or too few of them can be evaluated, to hold one out"
    return in_node(f"no {split} split: {reason}; name a file of {split} queries (data.{split}_path=FILE)")


def _own_documents(documents: Mapping[str, str], lists: Lists) -> OwnDocuments:
    queries = {query_id: entry.query for query_id, entry in lists.items()}
    return equal_documents(documents, queries, {query_id: entry.labels.keys() for query_id, entry in lists.items()})


def _unscored(found: list[tuple[str, float]], entry: QueryGroup) -> list[tuple[str, float]]:
    return [(document, math.nan) for document, _ in found if document not in entry.labels]


def _ranked(query_id: str, entry: QueryGroup) -> list[tuple[str, float]]:
    """Rank the documents by the teacher's scores unless the labels come from these; ties are in random order."""
    scores = entry.scores if entry.is_scored else dict.fromkeys(entry.scores, 0.0)
    return sorted(scores.items(), key=lambda item: (-item[1], stable_hash("place", query_id, item[0])))
