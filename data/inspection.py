"""The report on a data file: kinds of rows, splits, labels, lengths, examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data.batch import TokenSequences
from data.collection import Collection, is_empty
from data.degrees import are_pairs
from data.formats.columns import ListRecord
from data.sampling.training_lists import ListTokenizer
from data.truncation import Truncation

WIDTH = 100  # characters of a text that are shown
MAX_TOKENISED = 1000  # rows of which texts that are cut are counted
MAX_LEVELS = 10  # most different labels that are counted one by one


def describe_file(file: str, records: Sequence[ListRecord], collection: Collection) -> list[str]:
    """The lines about the rows of `file` and about the collection made from them."""
    return [
        f"{file}: {len(records)} rows, {' and '.join(kinds(records))}",
        *counts(collection),
        *label_lines(records),
        *degree_lines(collection),
        *length_lines(records),
    ]


def examples(records: Sequence[ListRecord], number: int = 2) -> list[str]:
    """The lines that show the first rows."""
    return [line for record in records[:number] for line in example(record)]


def kinds(records: Sequence[ListRecord]) -> Iterator[str]:
    """The kinds of rows, in words."""
    for kind, count in Counter(map(shape, records)).items():
        yield kind if count == len(records) else f"{count} {kind}"


def shape(record: ListRecord) -> str:
    if record.kind == "pairs":
        return "labelled pairs" if record.labelled else "positive pairs"
    if record.kind == "preferences":
        return "preferences"
    scored = " with teacher scores" if record.scores is not None else ""
    if record.kind == "lists":
        return f"{'teacher' if record.labels is None else 'graded'} lists{scored}"
    assert record.labels is not None
    positives, negatives = record.labels.count(1.0), record.labels.count(0.0)
    if not positives:
        return f"negatives without a relevant document{scored}"
    names = {(1, 0): "positive pairs", (1, 1): "triplets"}
    return f"{names.get((positives, negatives), 'tuples of positives and negatives')}{scored}"


def counts(collection: Collection) -> Iterator[str]:
    """The lines about sizes of splits and lists, and about repeated documents."""
    splits = ", ".join(f"{name} {len(split.queries)}" for name, split in collection.splits.items())
    yield f"queries: {splits} (rows of one query are one list)"
    lists = [judged for split in collection.splits.values() for judged in split.judgements.values()]
    yield f"documents per list: {percentiles(map(len, lists))}"
    listed = Counter(document for judged in lists for document in judged)
    repeated = sum(count > 1 for count in listed.values())
    yield f"documents: {len(collection.documents)} different texts, {repeated} of them in several lists"
    empty = sum(is_empty(text) for text in collection.documents.values())
    if empty:
        yield f"warning: {empty} document has no text"


def label_lines(records: Sequence[ListRecord]) -> Iterator[str]:
    labels = [label for record in records for label in record.labels or ()]
    levels = Counter(labels)
    if 0 < len(levels) <= MAX_LEVELS:
        yield "labels: " + ", ".join(f"{level:g}: {count}" for level, count in sorted(levels.items()))
    elif levels:
        yield f"labels: {percentiles(labels)}"
    scores = [score for record in records for score in record.scores or ()]
    if scores:
        scored = sum(record.scores is not None for record in records)
        yield f"teacher scores in {scored} of {len(records)} rows: {percentiles(scores)}"
    for name, values in (("weights", {r.weight for r in records}), ("prompts", {r.prompt for r in records})):
        if len(values) > 1:
            yield f"{name}: {len(values)} different ones"


def degree_lines(collection: Collection) -> Iterator[str]:
    """The line that says that labels are degrees of similarity, and what follows; none if they are relevance."""
    reasons = {split.degrees: are_pairs(split.judgements.values()) for split in collection.splits.values()}
    for degrees, is_pairs in reasons.items():
        if degrees:
            evaluation = "eval=similarity is used" if is_pairs else "eval=similarity measures them"
            yield (
                f"degrees of similarity: {degrees}; {evaluation}; data.relevant_from=X makes labels of X and more "
                "relevant, loss=bce_soft takes labels from 0 to 1"
            )


def length_lines(records: Sequence[ListRecord]) -> Iterator[str]:
    yield f"words per query: {percentiles(len(record.query.split()) for record in records)}"
    yield f"words per document: {percentiles(len(text.split()) for record in records for text in record.documents)}"


def longest_row(records: Sequence[ListRecord]) -> int:
    """The most bytes of a query and one of its documents."""
    return max(
        (
            len(record.query.encode()) + max((len(text.encode()) for text in record.documents), default=0)
            for record in records
        ),
        default=0,
    )


def sample_truncation(
    records: Sequence[ListRecord], tokenizer: ListTokenizer, query_prompt: str | None, document_prompt: str | None
) -> tuple[Truncation | None, int]:
    """How many queries and documents a model's tokenizer cuts, in at most MAX_TOKENISED rows, and the number of rows;
    None if it does not count them."""
    chosen = records[:: -(-len(records) // MAX_TOKENISED)]
    total = Truncation()
    for record in chosen:
        prompts = {"query_prompt": query_prompt if record.prompt is None else record.prompt}
        prompts["document_prompt"] = document_prompt
        given = {name: prompt for name, prompt in prompts.items() if prompt is not None}
        rows = TokenSequences.from_encoding(tokenizer.encode_list(record.query, list(record.documents), **given))
        count = Truncation.of_rows(rows.truncated, [len(rows)], len(record.documents))
        if count is None:
            return None, len(chosen)
        total += count
    return total, len(chosen)


def example(record: ListRecord) -> Iterator[str]:
    prompt = f" (prompt {record.prompt!r})" if record.prompt is not None else ""
    yield f"{record.where}: query{prompt}: {shorten(record.query)}"
    for index, text in enumerate(record.documents[:4]):
        label = f"label {record.labels[index]:g}" if record.labels is not None else "no label"
        score = f", teacher {record.scores[index]:g}" if record.scores is not None else ""
        yield f"    {label}{score}: {shorten(text)}"
    if len(record.documents) > 4:
        yield f"    ... and {len(record.documents) - 4} more"


def percentiles(values: Iterable[float]) -> str:
    numbers = np.fromiter(values, dtype=float)
    if numbers.min() == numbers.max():
        return f"{numbers[0]:g}"
    low, middle, high = np.percentile(numbers, (5, 50, 95))
    return f"{numbers.min():g} to {numbers.max():g} (5 %: {low:g}, median {middle:g}, 95 %: {high:g})"


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
