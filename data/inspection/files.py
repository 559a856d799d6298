"""Read lists of documents (data=file) to be inspected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from data.candidates import ListedCandidates
from data.degrees import degrees_of
from data.formats.columns import ListRecord
from data.formats.file import FileConfig
from data.formats.grouping import available_requirements, group_by_query
from data.formats.layouts import Layout, is_known
from data.formats.reader import FileReader
from data.formats.rows import plain_row
from data.formats.swapped import REMEDY, SAMPLE, why_swapped
from data.inspection.content import Content, Judgement, Limits, Text
from data.inspection.finding import Finding, counted, first_few, have, shorten, skipped_rows
from data.source import SourceOptions


def read_lists(options: FileConfig, limits: Limits) -> Content:
    """Read the rows of all splits, the first `limits.rows` of them. Raises ValueError, as training does, if one cannot
    be read."""
    reader = options.reader()
    reader.announce()
    splits = reader.splits
    records: dict[str, list[ListRecord]] = {}
    sampled = []
    for split in splits:
        records[split], is_whole = _first(reader.records(split), limits)
        if not is_whole:
            sampled.append(f"the first {len(records[split]):,} {split} rows were read, there are more")
    if not records["train"]:
        first = reader.skipped.first
        reason = f"all its rows are left out, the first: {first}" if first else "it has no rows"
        raise ValueError(f"data.path={options.path}: {reason}")
    lowered = {split: [_lowered(record, options.relevant_from) for record in own] for split, own in records.items()}
    every = [record for own in records.values() for record in own]
    name, reason = format_of(reader)
    return Content(
        Path(options.path).name,
        name,
        reason,
        has_ids=False,
        queries={split: _first_of((_query(r), r.where, r.query) for r in own) for split, own in lowered.items()},
        documents=_first_of((text.strip(), record.where, text) for record in every for text in record.documents),
        judgements=[each for split, own in lowered.items() for record in own for each in _judgements(split, record)],
        records=records["train"],
        size=f"{counted(len(records['train']), 'row')}, {' and '.join(kinds(records['train']))}",
        sampled=tuple(sampled),
        findings=(
            *skipped_rows(reader.skipped.rows),
            *empty_documents(every),
            *repeated_rows(lowered["train"]),
            *swapped_columns(lowered["train"], options.columns),
        ),
        degrees={} if options.relevant_from is not None else _degrees(lowered),
        judged_splits=tuple(splits),
        skips=reader.skipped.skips,
    )


def _first(records: Iterator[ListRecord], limits: Limits) -> tuple[list[ListRecord], bool]:
    """The first rows, and whether these are all."""
    found: list[ListRecord] = []
    characters = 0
    for record in records:
        if len(found) >= limits.rows or characters >= limits.characters:
            return found, False
        found.append(record)
        characters += len(record.query) + sum(map(len, record.documents))
    return found, True


def _first_of(texts: Iterable[tuple[str, str, str]]) -> dict[str, Text]:
    """The texts by key, each at its first place."""
    found: dict[str, Text] = {}
    for key, where, text in texts:
        if key not in found:
            found[key] = Text(where, text)
    return found


def _lowered(record: ListRecord, relevant_from: float | None) -> ListRecord:
    """The row with its labels of a column below `relevant_from` set to 0."""
    if relevant_from is None or not record.labelled or record.labels is None:
        return record
    return replace(record, labels=[0.0 if label < relevant_from else label for label in record.labels])


def _query(record: ListRecord) -> str:
    """The key of a row's query: rows of the same text and prompt are one list."""
    return "\x1f".join((record.query.strip(), *([record.prompt] if record.prompt else [])))


def _judgements(split: str, record: ListRecord) -> Iterator[Judgement]:
    query = _query(record)
    group = record.where if record.kind == "preferences" else query
    labels: Sequence[float | None] = record.labels or [None] * len(record.documents)
    for text, label in zip(record.documents, labels, strict=True):
        yield Judgement(record.where, split, group, query, text.strip(), label, record.kind)


def _degrees(records: dict[str, list[ListRecord]]) -> dict[str, str]:
    """Why labels are degrees of similarity, by split; the held-out ones share the scale of train."""
    found: dict[str, str] = {}
    for split, own in records.items():
        labels: dict[str, dict[str, float]] = {}
        for record in own:
            for text, label in zip(record.documents, record.labels or (), strict=False):
                labels.setdefault(_query(record), {})[text] = label
        found[split] = degrees_of(labels) or found.get("train", "")
    return {split: reason for split, reason in found.items() if reason}


def kinds(records: Sequence[ListRecord]) -> Iterator[str]:
    """The kinds of rows, in words."""
    for kind, count in Counter(map(shape, records)).items():
        yield kind if count == len(records) else f"{count} {kind}"


def shape(record: ListRecord) -> str:
    """The kind of one row, in words."""
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


def format_of(reader: FileReader) -> tuple[str, str]:
    """The format of the rows of train, and why: what their columns are taken as."""
    sources = reader.sources.splits["train"]
    suffixes = dict.fromkeys(_suffix(source.file) if source.file else "data set of the hub" for source in sources)
    known = reader.format_names()
    name = f"{', '.join(known)} in {', '.join(suffixes)}" if known else ", ".join(suffixes)
    name = f"{name}{f' ({len(sources)} files)' * (len(sources) > 1)}"
    row = next((source.first for source in sources if source.first is not None), None)
    with suppress(ValueError):
        if row is not None:
            plain = plain_row(row, {*reader.columns.values(), *reader.ignored}, is_known)
            layout = Layout.recognise("", tuple(plain), reader.columns, reader.ignored)
            found = [f"{', '.join(columns)} as {field}" for field, columns in layout.columns.items() if columns]
            return name, f"columns {'; '.join(found)}"
    return name, f"columns {', '.join(map(str, row))}" if row else ""


def _suffix(file: Path) -> str:
    is_packed = file.suffix.lower() in (".gz", ".bz2", ".xz", ".zst")
    return "".join(file.suffixes[-2:]) if is_packed else file.suffix


def empty_documents(records: Sequence[ListRecord]) -> Iterator[Finding]:
    """The documents without a text, which reading leaves out of their lists."""
    rows = [record for record in records if record.num_empty]
    if number := sum(record.num_empty for record in rows):
        yield Finding(
            "warning",
            "empty documents",
            f"{counted(number, 'document')} in {counted(len(rows), 'row')} {have(number)} no text and will be left out",
            "fill in the texts, or remove them from the lists",
            first_few([f"{record.where}: query {shorten(record.query, 60)}" for record in rows]),
        )


def repeated_rows(records: Sequence[ListRecord]) -> Iterator[Finding]:
    """The rows that hold nothing that an earlier row does not."""
    first: dict[int, str] = {}
    repeated = []
    for record in records:
        scored = tuple(record.labels or ()), tuple(record.scores or ())
        key = hash((_query(record), tuple(record.documents), *scored))
        other = first.setdefault(key, record.where)
        if other != record.where:
            repeated.append(f"{record.where}: as {other}: {shorten(record.query, 60)}")
    if repeated:
        number = len(repeated)
        yield Finding(
            "warning",
            "duplicate rows",
            f"{counted(number, 'row')} {'repeats' if number == 1 else 'repeat'} an earlier one word for word",
            "remove them: they add nothing, or too much weight",
            first_few(repeated),
        )


def swapped_columns(records: Sequence[ListRecord], columns: Mapping[str, str]) -> Iterator[Finding]:
    """The finding about queries that look like answers, and documents that look like questions."""
    answered = {_query(record): record for record in records if max(record.labels or (0,)) > 0}
    sample = list(answered.values())[:SAMPLE]
    pairs = [(each.query, each.documents[each.labels.index(max(each.labels))]) for each in sample if each.labels]
    if reason := why_swapped(pairs, columns):
        shown = [f"{each.where}: query {shorten(each.query, 60)!r}" for each in sample]
        yield Finding(
            "warning", "swapped columns", f"question and answer may be swapped: {reason}", REMEDY, first_few(shown)
        )


def available_of_rows(content: Content, options: SourceOptions) -> frozenset[str]:
    """What training lists of the rows that were read give to a loss."""
    lists = group_by_query(content.records, {}, options.relevant_from)
    adds_documents = not isinstance(options.candidates, ListedCandidates) or options.lists.random_fraction > 0
    return available_requirements(lists, adds_documents, content.degrees.get("train", ""))
