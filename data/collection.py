"""A collection: documents, and for each split queries, judgements and the first stage's candidates."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field, fields, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from data.hashing import text_hash
from data.option_names import ROOT
from data.progress import show_progress
from data.sampling.list_options import ListOptions

SPLITS = ("train", "dev", "test")

Candidates = Mapping[str, list[tuple[str, float]]]  # query id -> (document id, first-stage score), best first
Judgements = Mapping[str, Mapping[str, int]]  # query id -> document id -> grade, 0 = judged not relevant

# Categories of Unicode whose characters leave no mark, and characters of other categories that leave none: fillers,
# joiners and variation selectors.
INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
FILLERS = frozenset(map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0))) | frozenset(
    map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)

# What training lists provide for a loss: names of losses.contracts.REQUIREMENTS.
JUDGED_LISTS = frozenset({"positive", "relevance", "comparison", "labels", "levels", "several"})


@dataclass(frozen=True)
class Split:
    """The queries of one split with their judgements and candidates, all keyed by query id.

    `labels` are judgements that need not be integers. If there are any, training lists use them instead of the grades,
    and so does eval=similarity. They may have queries without a relevant document, which are not in `qrels`.
    `own_documents` maps a query to the documents that are the query itself: no ranking holds them, nor do `candidates`.
    `ranked` says whether a first stage has put the candidates in their order; else their order says nothing. `listed`
    says that the candidates are the documents that the data list with each query: a ranking of them (by scores in the
    data) is none of the corpus.
    `degrees` says why the labels are degrees of similarity (`data.degrees.degrees_of`); it is empty if they are labels
    of relevance.
    """

    queries: Mapping[str, str]
    qrels: Judgements
    candidates: Candidates
    weights: Mapping[str, float] = field(default_factory=dict)  # the weight of a query's list in the loss; default 1
    prompts: Mapping[str, str] = field(default_factory=dict)  # the prompt of a query, instead of the data set's
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    own_documents: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    degrees: str = ""
    ranked: bool = True
    listed: bool = False

    @property
    def judgements(self) -> Mapping[str, Mapping[str, float]]:
        """The labels, or the grades if there are none."""
        return self.labels or self.qrels

    def without(self, queries: Container[str]) -> Split:
        """The split without these queries, by id."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        kept: dict[str, Any] = {
            name: {query: value for query, value in part.items() if query not in queries}
            for name, part in parts.items()
            if isinstance(part, Mapping)
        }
        return replace(self, **kept)


@dataclass(frozen=True)
class Collection:
    """Documents (title and text joined) and disjoint splits of queries over them.

    `fingerprint` is a hash of the content. `excluded` maps a query to documents that are never its negatives.
    `missing` gives the reason for each split that the data have but that cannot be used.
    `lists` are the options of training lists, `available` is what these provide for a loss (names of
    losses.contracts.REQUIREMENTS). The prompts are put before the texts (None: the model's own).
    Raises ValueError if two splits share a query, by id or by text, or a query has no candidate list.
    """

    name: str
    documents: Mapping[str, str]
    splits: dict[str, Split]
    fingerprint: str
    excluded: dict[str, set[str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    lists: ListOptions = field(default_factory=ListOptions)
    available: frozenset[str] = JUDGED_LISTS
    query_prompt: str | None = None
    document_prompt: str | None = None
    keep_queries_without_positives: bool = False  # in training lists: for BCE, KTO, distillation
    in_batch: bool = True  # False: a training list is compared with no other (no in-batch negatives)
    skipped: Sequence[Mapping[str, str]] = ()  # rows of the data that are left out: {"where", "error"}
    whole: str = ""  # the fingerprint before a share of the training queries was taken; empty if all are there
    made: Mapping[str, Any] = field(default_factory=dict)  # counts of what its queries were made from, in JSON types
    node: str = ROOT  # of its options in the run's settings, for messages
    is_checked: InitVar[bool] = False  # its splits were checked when it was stored

    def __post_init__(self, is_checked: bool) -> None:
        if is_checked:
            return
        for name, split in self.splits.items():
            _check_candidates(self.name, name, split)
        if len(self.splits) > 1 and _share_queries(self.splits):
            _refuse_shared(self.name, self.splits)

    @property
    def whole_fingerprint(self) -> str:
        """The fingerprint of the data that a share of the training queries was taken from."""
        return self.whole or self.fingerprint

    @property
    def sources(self) -> Mapping[str, Collection]:
        """The collections that training lists are drawn from: this one. (A mixture has several.)"""
        return {self.name: self}

    @property
    def evaluated(self) -> Collection:
        """The collection whose held-out queries are evaluated: this one."""
        return self

    @property
    def held_out_alone(self) -> bool:
        """Whether the evaluated collection is none of the `sources`: no."""
        return False

    def map_sources(self, change: Callable[[Collection], Collection]) -> Collection:
        """The changed collection."""
        return change(self)

    def split(self, name: str) -> Split:
        """The split of that name. Raises ValueError if there is none, or if none of its queries has a relevant
        document (degrees of similarity need none)."""
        if name in self.missing:
            raise ValueError(f"data {self.name}: {self.missing[name]}")
        if name not in self.splits:
            raise ValueError(
                f"data {self.name} has no {name} split (it has: {', '.join(self.splits)}): add its "
                "judgements, or choose other data"
            )
        split = self.splits[name]
        if split.degrees or (name == "train" and self.keep_queries_without_positives):
            return split
        if not any(grade > 0 for judged in split.qrels.values() for grade in judged.values()):
            raise ValueError(
                f"data {self.name}: none of the {len(split.queries)} {name} queries has a relevant document "
                "(a score above 0)"
            )
        return split

    def available_with(self, list_size: int) -> frozenset[str]:
        """What training lists of that length provide for a loss."""
        if list_size > 1:
            return self.available
        lost = {"relevance", "comparison", "several"}
        if not self.keep_queries_without_positives and not self.splits["train"].degrees:
            lost |= {"labels", "levels", "unit_labels"}  # all documents are relevant
        return self.available - lost


def _check_candidates(owner: str, name: str, split: Split) -> None:
    if all(query == other for query, other in zip_longest(split.queries, split.candidates)):
        return  # they are the same, in the same order
    missing = next((query for query in split.queries if query not in split.candidates), None)
    if missing is not None:
        raise ValueError(f"{owner}: query {missing!r} of split {name} has no candidates; give it some")


def _share_queries(splits: Mapping[str, Split]) -> bool:
    """Whether queries of different splits may be the same, by the hashes of ids and texts: 16 bytes a query."""
    ids = [iter(split.queries) for split in splits.values()]
    texts = [map(normalised, split.queries.values()) for split in splits.values()]
    for keys in (ids, texts):
        parts = [np.unique(np.fromiter(map(hash, own), np.int64)) for own in keys]
        if len(np.unique(np.concatenate(parts))) < sum(map(len, parts)):
            return True
    return False


def _refuse_shared(owner: str, splits: Mapping[str, Split]) -> None:
    """Raise ValueError if splits share a query."""
    known: dict[str, tuple[str, str]] = {}
    for name, split in splits.items():
        for query_id, text in split.queries.items():
            for key in (f"id {query_id}", f"text {normalised(text)}"):
                other, other_id = known.setdefault(key, (name, query_id))
                if other != name:
                    raise ValueError(
                        f"{owner}: query {query_id!r} of split {name} is query {other_id!r} of split {other}; "
                        "remove it from one of them"
                    )


def normalised(text: str) -> str:
    """The form in which equal texts are the same string: texts are equal up to case, the forms that Unicode calls
    compatible (NFKC), and the amount of white space. Every sign counts.

    >>> normalised(" What  is C++") == normalised("what is c++") != normalised("what is c#")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()  # folding may decompose a character: NFKC once more
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def text_key(text: str) -> int:
    """A hash that equal texts share; `normalised` says which are equal."""
    return text_hash(normalised(text))


def is_empty(text: str) -> bool:
    """Whether a text has no visible character: white space, control and zero-width characters alone say nothing.

    >>> [is_empty(text) for text in ("", " \\n", "\\u200b", "\\ufeff\\u2060", "x", "?")]
    [True, True, True, True, False, False]
    """
    return all(unicodedata.category(sign) in INVISIBLE or sign in FILLERS for sign in text)


def content_hash(*parts: Mapping[str, object] | Iterable[object]) -> str:
    """A hex digest of mappings and sequences of JSON types, which depends on their order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        items = part.items() if isinstance(part, Mapping) else part
        for item in show_progress(items, "hashing", len(part) if isinstance(part, Sized) else None, "items"):
            digest.update(json.dumps(item).encode())
        digest.update(b"\x1d")
    return digest.hexdigest()
