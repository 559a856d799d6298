"""Read lists of documents from files of any format of this package, in any layout of columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.candidates import CandidateSource, ListedCandidates, RunFileCandidates
from data.collection import SPLITS, Candidates, Collection, Split, content_hash
from data.degrees import degrees_of
from data.formats.columns import ListRecord
from data.formats.file_format import FileFormat, file_formats
from data.formats.grouping import available_requirements, copies_in_lists, group_by_query, labels_of
from data.formats.grouping_on_disk import GroupingOnDisk
from data.formats.held_out import evaluated_queries, hold_out
from data.formats.layouts import NAMES
from data.formats.list_parts import (
    FoundInLists,
    Lists,
    evaluated_of,
    grades_of,
    in_memory,
    listed_candidates,
    no_candidates,
    queries_of,
    split_labels,
    training_candidates,
)
from data.formats.reader import FileReader, Paths, id_fields
from data.formats.skipped import SkippedRows, check_on_error
from data.formats.swapped import warn_of_swapped
from data.inspection.finding import counted
from data.option_names import current_node, in_node
from data.overlap import disjoint_splits
from data.own_document import OwnDocuments, equal_documents, text_keys
from data.sampling.list_options import ListOptions
from data.source import SourceOptions, never_negatives
from data.store.build import stored_if_large
from data.store.collection import DOCUMENTS
from data.views import Chosen, Derived, Joined, without

# Factor of labels that are not integers, to make grades: nDCG with linear gain does not depend on it.
LABEL_FACTOR = 100


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

    has_ids: ClassVar[bool] = False

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
        reader = self.reader()
        hub = reader.hub_sources()
        return stored_if_large(
            self,
            reader.places(),
            self._read,
            contents={"path": {source.name: source.fingerprint for source in hub}} if hub else {},
            num_rows=sum(len(source.rows) for source in hub),
        )

    @property
    def stored_name(self) -> str:
        return Path(self.path).name.replace("*", "-")

    def _read(self) -> Collection:
        reader, documents = self.reader(), dict[str, str]()
        reader.announce()
        read = {
            split: group_by_query(reader.records(split), documents, self.relevant_from, reader.skipped)
            for split in reader.splits
        }
        return self._assembled(reader, read, documents, None)

    def build_stored(self, folder: Path) -> Collection:
        reader, scratch = self.reader(), folder.with_name("rows")
        scratch.mkdir()
        reader.announce()
        grouping = GroupingOnDisk(scratch, self.relevant_from, reader.skipped)
        read = {split: grouping.group(split, reader.records(split)) for split in reader.splits}
        documents, keys = grouping.documents(folder / DOCUMENTS)
        del grouping  # what it knows of all texts
        return self._assembled(reader, read, documents, keys)

    def _assembled(
        self, reader: FileReader, read: Mapping[str, Lists], documents: Mapping[str, str], keys: np.ndarray | None
    ) -> Collection:
        """The collection of the lists of all splits. `keys` are those of the documents' texts, if they are known."""
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
        self._check_relevant_from([lists, *files.values()])
        return self._collection(documents, keys, members, missing, degrees, reader.skipped.rows)

    def _members(
        self,
        lists: Lists,
        files: Mapping[str, Lists],
        shares: Mapping[str, float],
        documents: Mapping[str, str],
        degrees: Mapping[str, str],
    ) -> tuple[dict[str, Lists], dict[str, str]]:
        """The lists of disjoint splits: those of the files of dev and test, and `shares` of `lists`. Also why a split
        is left without a query."""
        kept, missing = _disjoint(self._name, {"train": lists, **files})
        train = kept.pop("train", {})
        held_out = hold_out(train, documents, shares, self.max_held_out, bool(degrees["train"]))
        drawn: dict[str, Lists] = {
            split: {query_id: train[query_id] for query_id in ids} for split, ids in held_out.items()
        }
        drawn["train"] = without(train, {query_id for ids in held_out.values() for query_id in ids})
        # A list that cannot be evaluated is not drawn: one with the query of a drawn list is dropped here.
        members, emptied = _disjoint(self._name, {**kept, **drawn})
        for split in files.keys() & members.keys():
            parts = evaluated_queries(members[split], bool(degrees[split]))
            members[split] = Chosen(members[split], chain(*parts))
        members = {split: lists for split, lists in members.items() if lists}
        none = {split: _why_none(split, share, lists) for split, share in shares.items() if split not in members}
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
            if known is None or found[split]:
                continue
            levels = {label for entry in read.values() if entry.has_label_column for label in entry.labels.values()}
            if levels - {0.0, 1.0}:
                found[split] = f"{found[known]} in data.{'path' if known == 'train' else f'{known}_path'}"
        return dict.fromkeys(SPLITS, found["train"]) | found

    def _check_relevant_from(self, splits: Sequence[Lists]) -> None:
        if self.relevant_from is None:
            return
        has_labels = False
        for entry in chain(*(lists.values() for lists in splits)):
            has_labels = has_labels or entry.has_label_column
            if entry.has_label_column and any(label > 0 for label in entry.labels.values()):
                return
        reason = "no label is that high" if has_labels else "no row has a label"
        raise ValueError(f"data.relevant_from={self.relevant_from:g}: {reason} in {self.path}")

    def _collection(
        self,
        documents: Mapping[str, str],
        keys: np.ndarray | None,
        members: Mapping[str, Lists],
        missing: Mapping[str, str],
        degrees: Mapping[str, str],
        skipped: Sequence[Mapping[str, str]],
    ) -> Collection:
        adds_documents = self._adds_candidates or self.lists.random_fraction > 0
        found = {split: FoundInLists.of(lists) for split, lists in members.items()}
        scale = 1 if all(level.is_integer() for own in found.values() for level in own.levels) else LABEL_FACTOR
        own = self._own_documents(documents, keys, members, degrees)
        left_out = self.left_out(self._name, own)
        splits = {
            split: self._split(split, documents, lists, found[split], scale, left_out[split], degrees[split])
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
            keep_queries_without_positives="train" in found and not found["train"].all_have_positives,
            in_batch=self.in_batch,
            skipped=tuple(skipped),
            node=current_node(),
        )

    def _split(
        self,
        split: str,
        documents: Mapping[str, str],
        lists: Lists,
        found: FoundInLists,
        scale: int,
        left_out: OwnDocuments,
        degrees: str,
    ) -> Split:
        """The split of these lists: in memory if the documents are, else made from the stored lists when it is read."""
        made = in_memory if isinstance(documents, dict) else _as_it_is
        return Split(
            queries=made(queries_of(lists)),
            qrels=made(grades_of(split, lists, scale)),
            candidates=made(self._candidates(split, documents, lists, left_out, bool(degrees))),
            weights=made(found.weights(lists)),
            prompts=made(found.prompts(lists)),
            labels=made(split_labels(split, lists, exact=bool(degrees) or scale != 1)),
            own_documents=left_out,
            degrees=degrees,
            ranked=split == "train" or self._are_ranked(lists, bool(degrees)),
            listed=split != "train" and (bool(degrees) or self._ranks_own_documents(lists)),
        )

    def _own_documents(
        self,
        documents: Mapping[str, str],
        keys: np.ndarray | None,
        members: Mapping[str, Lists],
        degrees: Mapping[str, str],
    ) -> dict[str, OwnDocuments]:
        """The documents of each split that are a query itself; none if labels are degrees."""
        if keys is None and not all(degrees[split] for split in members):
            keys = text_keys(documents.values())
        own: dict[str, OwnDocuments] = {split: {} for split in members}
        for split, lists in members.items():
            if not degrees[split]:
                listed = Derived(lists, lambda _, entry: entry.labels.keys())
                own[split] = equal_documents(documents, queries_of(lists), listed, keys)
        return own

    @property
    def _adds_candidates(self) -> bool:
        return not isinstance(self.candidates, ListedCandidates)

    def _ranks_own_documents(self, lists: Lists) -> bool:
        """Whether the candidates of held-out queries are the documents that are listed with each."""
        if self._adds_candidates:
            return False
        compare = [entry.compares for entry in lists.values() if entry.can_be_evaluated]
        return sum(compare) * 2 >= len(compare)

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
        if split == "train":
            added: Candidates = {}
            if self._adds_candidates:
                added = self.candidates.build(documents, {split: queries_of(lists)}, self.cache, left_out)[split]
            return training_candidates(lists, added)
        ranked = evaluated_of(lists)
        if degrees or self._ranks_own_documents(lists):
            return Joined(listed_candidates(ranked), no_candidates(lists))
        found = self.candidates.build(documents, {split: queries_of(ranked)}, self.cache, left_out)[split]
        return Joined(found, no_candidates(lists))


def _as_it_is(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping


def _disjoint(name: str, splits: Mapping[str, Lists]) -> tuple[dict[str, Lists], dict[str, str]]:
    return disjoint_splits(name, {split: queries_of(lists) for split, lists in splits.items()}, splits)


def _why_none(split: str, share: float, lists: Lists) -> str:
    """Why no query was held out as that split."""
    reason = f"data.{split}_fraction=0"
    if share > 0:
        usable = sum(entry.can_be_evaluated for entry in lists.values())
        of_all = counted(len(lists), "query", "queries")
        reason = f"of its {of_all} {usable} can be evaluated (with a relevant document, or with scores that differ): "
        reason += "too few to hold out some for dev and test and train on the others"
    return in_node(f"no {split} split: {reason}; name a file of {split} queries (data.{split}_path=FILE)")
