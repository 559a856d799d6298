"""The corpus that negatives come from: the documents of the data, or another one with the relevant documents added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from data.cache import cached
from data.collection import Collection, content_hash, is_empty
from data.formats.documents import read_documents
from data.formats.qrels import find_file
from data.hashing import file_digest
from data.store.build import STORED_FROM
from data.store.texts import Entry, StoredTexts, write_rows

OPTION = "mine.corpus_path="
ADDED = "relevant:"  # begins the ids of relevant documents that are added to another corpus


@dataclass(frozen=True)
class MiningCorpus:
    """Documents by id, and the row of each document of the data among them."""

    documents: Mapping[str, str]
    places: Mapping[str, int] | None  # id in the data -> row; None: `documents` are stored and know it

    def row(self, document_id: str) -> int | None:
        """The row of a document of the data; None if the corpus does not have it."""
        if self.places is not None:
            return self.places.get(document_id)
        assert isinstance(self.documents, StoredTexts)
        return self.documents.find(document_id)


def corpus_of(collection: Collection, split_name: str, path: str | None, cache: Path) -> MiningCorpus:
    """The corpus of the data, or the one at `path` with the relevant documents of the split after its own, as in
    sentence-transformers' miner: a relevant document of one query may be a negative of another.

    Raises ValueError or FileNotFoundError, in one line, if there is nothing to read.
    """
    if path is None:
        documents = collection.documents
        is_stored = isinstance(documents, StoredTexts)
        return MiningCorpus(documents, None if is_stored else {name: row for row, name in enumerate(documents)})
    judged = collection.split(split_name).judgements
    relevant = dict.fromkeys(name for own in judged.values() for name, grade in own.items() if grade > 0)
    file = corpus_file(path)
    entries = partial(_entries, file, collection.documents, list(relevant))
    if file.stat().st_size < STORED_FROM:
        documents = _in_memory(entries())
    else:
        key = content_hash([file_digest(file)], {name: collection.documents[name] for name in relevant})
        stored = cached(cache / "texts" / f"{file.name}-{key}", partial(write_rows, entries=entries), resumable=True)
        documents = StoredTexts(stored)
    first = len(documents) - len(relevant)
    if first == 0:
        raise ValueError(f"{OPTION}{path}: it has no document with a text")
    return MiningCorpus(documents, {name: first + number for number, name in enumerate(relevant)})


def corpus_file(path: str) -> Path:
    """The file of a corpus: the path itself, or corpus.jsonl of a folder."""
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{OPTION}{path}: no such file or folder")
    return find_file(place, "corpus.jsonl") if place.is_dir() else place


def _entries(file: Path, documents: Mapping[str, str], relevant: Sequence[str]) -> Iterator[Entry]:
    own = (
        (f"{file}: document {number}", document.id, document.text)
        for number, document in enumerate(read_documents(str(file), OPTION), start=1)
        if not is_empty(document.text)
    )
    added = (("the data", f"{ADDED}{name}", documents[name]) for name in relevant)
    return chain(own, added)


def _in_memory(entries: Iterator[Entry]) -> dict[str, str]:
    texts: dict[str, str] = {}
    places: dict[str, str] = {}
    for where, name, text in entries:
        if name in places:
            raise ValueError(f"{where}: duplicate id {name!r} (first at {places[name]}); ids must be unique")
        places[name], texts[name] = where, text
    return texts
