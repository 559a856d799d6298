"""Look at a data set that only its own `build` can read: of the hub, docstrings, a class of the user's."""

from __future__ import annotations

from collections.abc import Iterator

from data.collection import SPLITS, Collection
from data.formats.columns import ListRecord
from data.inspection.content import Content, EvenSample, Judgement, Limits, Text, spread_evenly
from data.inspection.finding import counted, skipped_rows

MAX_RECORDS = 1000  # queries that are shown as lists


def read_collection(collection: Collection, limits: Limits) -> Content:
    """What a collection holds, as training reads it: of a large one a part of the documents."""
    sample: EvenSample[tuple[str, Text]] = EvenSample(limits.rows, limits.characters)
    for key in collection.documents:
        text = collection.documents[key]
        sample.add((key, Text(f"document {key!r}", text)), len(text))
    documents = dict(sample.kept)
    names = [split for split in SPLITS if split in collection.splits]
    judgements = [each for split in names for each in _judgements(collection, split)]
    whole = len(documents) == len(collection.documents)
    return Content(
        collection.name,
        "a data set of its own class",
        "",
        has_ids=True,
        queries={
            split: {key: Text(f"query {key!r}", text) for key, text in collection.splits[split].queries.items()}
            for split in names
        },
        documents=documents,
        judgements=judgements,
        records=list(_records(collection, names)),
        size=f"{counted(len(collection.documents), 'document')}, {counted(len(judgements), 'judgement')}",
        sampled=()
        if whole
        else (f"texts of {len(documents):,} of {len(collection.documents):,} documents were looked at",),
        degrees={split: why for split in names if (why := collection.splits[split].degrees)},
        judged_splits=tuple(names),
        findings=tuple(skipped_rows(collection.skipped)),
    )


def _judgements(collection: Collection, split: str) -> Iterator[Judgement]:
    for query, judged in collection.splits[split].judgements.items():
        for document, label in judged.items():
            yield Judgement(f"query {query!r}", split, query, query, document, label, "qrels")


def _records(collection: Collection, names: list[str]) -> Iterator[ListRecord]:
    for split in names:
        own = collection.splits[split]
        for query in spread_evenly(list(own.judgements), MAX_RECORDS):
            judged = own.judgements[query]
            texts = [collection.documents[document] for document in judged]
            yield ListRecord(f"query {query!r}", "lists", own.queries[query], texts, list(judged.values()))
