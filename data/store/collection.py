"""A collection in a folder of the cache: written once, then opened without reading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from data.collection import Collection, Split
from data.sampling.list_options import ListOptions
from data.store.lists import StoredLists, StoredValues, write_lists, write_values
from data.store.texts import StoredTexts, write_texts

META = "collection.json"
DOCUMENTS = "documents"  # the folder of documents that belong to this collection alone
SPLIT_VALUES = ("degrees", "ranked", "listed")  # of a split, in META
COLLECTION_VALUES = (
    "name", "fingerprint", "missing", "query_prompt", "document_prompt", "keep_queries_without_positives", "in_batch",
    "node", "skipped", "made",
)  # fmt: skip


def write_collection(folder: Path, collection: Collection, messages: list[str]) -> None:
    """Write a collection. Documents that are stored elsewhere stay there; `messages` are said when it is opened."""
    folder.mkdir(parents=True, exist_ok=True)
    documents, place = collection.documents, DOCUMENTS
    if not isinstance(documents, StoredTexts):
        documents = write_texts(folder / place, documents.items())
    elif documents.folder != folder / place:
        place = str(documents.folder.absolute())
    meta: dict[str, Any] = {name: getattr(collection, name) for name in COLLECTION_VALUES}
    meta["skipped"] = list(collection.skipped)
    meta |= {"messages": messages, "documents": place, "available": sorted(collection.available)}
    meta["excluded"] = _as_lists(collection.excluded)
    meta["splits"] = {name: _write_split(folder / name, split, documents) for name, split in collection.splits.items()}
    (folder / META).write_text(json.dumps(meta))


def open_collection(folder: Path, lists: ListOptions) -> tuple[Collection, list[str]]:
    """Open a collection of the cache, and return what was said when it was made. `lists` are options of a run."""
    meta = json.loads((folder / META).read_text())
    documents = StoredTexts(documents_of(folder))
    splits = {name: _open_split(folder / name, part, documents) for name, part in meta["splits"].items()}
    collection = Collection(
        documents=documents,
        splits=splits,
        excluded=_as_sets(meta["excluded"]),
        available=frozenset(meta["available"]),
        lists=lists,
        is_checked=True,
        **{name: meta[name] for name in COLLECTION_VALUES},
    )
    return collection, meta["messages"]


def is_whole(folder: Path) -> bool:
    """Whether the collection and its documents, which may be stored elsewhere, are there."""
    return (folder / META).is_file() and documents_of(folder).is_dir()


def documents_of(folder: Path) -> Path:
    """The folder of the documents: that of the same cache, which may have been moved or copied as a whole, or where
    they were when the collection was written. The collection itself if that cannot be read."""
    try:
        place = folder / json.loads((folder / META).read_text())["documents"]  # outside the folder it is absolute
    except ValueError:
        return folder
    moved = folder.parents[1] / place.parent.name / place.name
    return moved if moved.is_dir() else place


def _write_split(folder: Path, split: Split, documents: StoredTexts) -> dict[str, Any]:
    queries = write_texts(folder / "queries", split.queries.items())
    write_lists(folder / "qrels", split.qrels, queries, documents)
    write_lists(folder / "candidates", split.candidates, queries, documents)
    if split.labels:
        write_lists(folder / "labels", split.labels, queries, documents)
    if split.prompts:
        write_texts(folder / "prompts", split.prompts.items())
    if split.weights:
        write_values(folder / "weights", split.weights, queries)
    meta = {name: getattr(split, name) for name in SPLIT_VALUES}
    return {**meta, "own_documents": _as_lists(split.own_documents)}


def _open_split(folder: Path, meta: Mapping[str, Any], documents: StoredTexts) -> Split:
    queries = StoredTexts(folder / "queries")
    labels, prompts, weights = (folder / name for name in ("labels", "prompts", "weights"))
    return Split(
        queries=queries,
        qrels=StoredLists[dict[str, int]](folder / "qrels", queries, documents, dict),
        candidates=StoredLists[list[tuple[str, float]]](folder / "candidates", queries, documents, list),
        labels=StoredLists[dict[str, float]](labels, queries, documents, dict) if labels.is_dir() else {},
        prompts=StoredTexts(prompts) if prompts.is_dir() else {},
        weights=StoredValues(weights, queries) if weights.is_dir() else {},
        own_documents=_as_sets(meta["own_documents"]),
        **{name: meta[name] for name in SPLIT_VALUES},
    )


def _as_lists(sets: Mapping[str, Any]) -> dict[str, list[str]]:
    return {key: sorted(members) for key, members in sets.items()}


def _as_sets(lists: Mapping[str, list[str]]) -> dict[str, set[str]]:
    return {key: set(members) for key, members in lists.items()}


assert {field.name for field in fields(Collection)} == {
    *COLLECTION_VALUES, "documents", "splits", "excluded", "available", "lists", "whole",
}  # fmt: skip  # a new field must be stored too (`whole` is that of a share, which is taken of an opened collection)
assert {field.name for field in fields(Split)} == {
    *SPLIT_VALUES, "queries", "qrels", "candidates", "labels", "prompts", "weights", "own_documents",
}  # fmt: skip
