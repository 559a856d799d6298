"""What texts are written about: the documents of a collection, or the queries of a split with their documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.candidates import NoCandidates
from data.collection import Collection, Split, content_hash, is_empty, text_key
from data.hashing import stable_hash
from data.store.texts import ids_of
from inference.questions.writer import Request
from recipes.questions.config import MakeQueriesConfig


@dataclass(frozen=True)
class Task:
    """The ids of documents or queries, and the texts of the slots of prompts for each. `source` is the slot with the
    text that must not be copied. `left_out` counts what is not written about, by reason."""

    collection: Collection
    split: Split | None  # None: documents are written about
    ids: Sequence[str]
    texts_of: Callable[[str], Mapping[str, str]]
    source: str
    is_passage: bool
    left_out: Counter[str]

    @property
    def unit(self) -> str:
        return "document" if self.split is None else "query"

    def request(self, name: str) -> Request:
        return Request(name, self.texts_of(name))

    @property
    def ids_hash(self) -> str:
        """A hash of what is written about, in its order."""
        return content_hash(self.ids)

    def relevant(self, name: str) -> list[str]:
        """The documents that a search with a text about `name` should find."""
        return (
            [name] if self.split is None else [document for document, label in self.judged(name).items() if label > 0]
        )

    def judged(self, query: str) -> dict[str, float]:
        """The judged documents of a query that the data have, with their labels."""
        assert self.split is not None
        return judged_of(self.split, self.collection, query)


def read_data(data: Any, make: str) -> Collection:
    """The collection, without candidates, which nobody reads. Questions are written about the whole texts of documents,
    also where data take queries out of them (data=documents)."""
    if make == "questions":
        data = data.for_encoding()
    if getattr(data, "candidates", None) is None:
        return data.build()
    return replace(data, candidates=NoCandidates()).build()


def task_of(settings: MakeQueriesConfig, collection: Collection) -> Task:
    """What is written about. Raises ValueError if there is nothing."""
    task = _documents(settings, collection) if settings.make == "questions" else _queries(settings, collection)
    if not task.ids:
        reasons = ", ".join(f"{name}: {number:,}" for name, number in task.left_out.items()) or "there is none"
        plural = "documents" if task.split is None else f"{settings.split} queries"
        raise ValueError(f"data {collection.name}: no {plural} to write about ({reasons}): choose other data")
    return task


def _documents(settings: MakeQueriesConfig, collection: Collection) -> Task:
    documents, left_out = collection.documents, Counter[str]()
    chosen = sampled(ids_of(documents), settings.num_documents, settings.seed)
    ids = [name for name in chosen if not is_empty(documents[name])]
    if len(ids) < len(chosen):
        left_out["without a text"] = len(chosen) - len(ids)
    return Task(
        collection=collection,
        split=None,
        ids=ids,
        texts_of=lambda name: {"document": documents[name]},
        source="document",
        is_passage=False,
        left_out=left_out,
    )


def _queries(settings: MakeQueriesConfig, collection: Collection) -> Task:
    split, left_out = collection.split(settings.split), Counter[str]()
    if split.degrees:
        raise ValueError(
            f"data {collection.name}: {split.degrees}: no document is relevant to a query; data.relevant_from=NUMBER "
            "makes the higher labels relevant"
        )
    usable = [name for name in split.queries if any(v > 0 for v in judged_of(split, collection, name).values())]
    if len(usable) < len(split.queries):
        left_out["without a relevant document"] = len(split.queries) - len(usable)
    negatives = settings.make == "negatives"

    def texts_of(name: str) -> dict[str, str]:
        judged = judged_of(split, collection, name)
        best = max(judged, key=lambda document: judged[document])  # the first of equals
        return {"query": split.queries[name], "document": collection.documents[best]}

    return Task(
        collection=collection,
        split=split,
        ids=sampled(usable, settings.num_queries, settings.seed),
        texts_of=texts_of,
        source="document" if negatives else "query",
        is_passage=negatives,
        left_out=left_out,
    )


def judged_of(split: Split, collection: Collection, query: str) -> dict[str, float]:
    """The judged documents of a query that the collection has, with their labels."""
    judged = split.judgements.get(query, {})
    return {document: label for document, label in judged.items() if document in collection.documents}


def sampled(ids: Sequence[str], number: int | None, seed: int) -> Sequence[str]:
    """So many ids, in their order: those with the lowest hashes, so that a larger sample holds a smaller one."""
    if number is None or number >= len(ids):
        return ids
    hashes = sorted((stable_hash("written about", seed, name), place) for place, name in enumerate(ids))
    return [ids[place] for place in sorted(place for _, place in hashes[:number])]


def known_queries(task: Task, split_name: str) -> tuple[set[int], set[int]]:
    """The keys of texts that are queries already: those of train and of the split itself, and those of the other
    splits, which are held out."""
    own, held_out = set[int](), set[int]()
    for name, split in task.collection.splits.items():
        keys = own if name in ("train", split_name) else held_out
        keys.update(text_key(text) for text in split.queries.values())
    return own, held_out
