"""Read a folder in BEIR's layout to be inspected: what training refuses or leaves out is noted, not only the first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.collection import JUDGED_LISTS, is_empty
from data.formats.beir import BEIRConfig, read_documents, read_queries
from data.formats.columns import ListRecord
from data.formats.file_format import Record, check_is_no_collection
from data.formats.jsonl import read_json_lines
from data.formats.qrels import find_qrels, read_qrels, read_tsv
from data.formats.skipped import SkippedRows, readable
from data.inspection.content import Content, EvenSample, Judgement, Limits, Text
from data.inspection.finding import Finding, Severity, counted, first_few, have, skipped_rows
from data.progress import show_progress
from data.source import unit_labels

MAX_RECORDS = 1000  # queries that are shown and counted as lists


@dataclass
class Problems:
    """The places of what is wrong with ids."""

    repeated: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)  # judgements of one pair with different grades
    dangling: list[str] = field(default_factory=list)
    num_judgements: int = 0
    skipped: SkippedRows = field(default_factory=SkippedRows)

    def findings(self) -> Iterator[Finding]:
        severity: Severity = "warning" if self.skipped.skips else "error"
        left_out = ", and the later row will be left out" * self.skipped.skips
        yield from skipped_rows(self.skipped.rows)
        if self.repeated:
            occur = "occurs" if len(self.repeated) == 1 else "occur"
            yield Finding(
                severity,
                "repeated ids",
                f"{counted(len(self.repeated), 'id')} {occur} twice{left_out}",
                "give every document, and every query, an id of its own",
                first_few(self.repeated),
            )
        if self.twice:
            yield Finding(
                severity,
                "conflicting labels",
                f"{counted(len(self.twice), 'pair')} of a query and a document {have(len(self.twice))} two grades"
                f"{left_out}",
                "keep one grade of each pair",
                first_few(self.twice),
            )
        if self.dangling:
            yield Finding(
                "warning",
                "dangling ids",
                f"{len(self.dangling):,} of {counted(self.num_judgements, 'judgement')} name a query or a document "
                "that is not there, and will be left out",
                "add the missing texts, or check that the files belong together and write ids alike",
                first_few(self.dangling),
            )


@dataclass
class Corpus:
    """The documents that are kept: all that are judged, and an even sample of the others."""

    documents: dict[str, Text]
    ids: set[str]
    total: int
    is_whole: bool  # whether all ids are known


def read_folder(options: BEIRConfig, limits: Limits) -> Content:
    """Read a local folder. Raises ValueError or FileNotFoundError, as training does, if a line cannot be read."""
    folder = Path(options.path).expanduser()
    places = options.places()["path"]
    problems = Problems(skipped=SkippedRows(options.on_error))
    asked = _by_id(read_json_lines(places["queries.jsonl"]), read_queries, problems)
    _check_is_filled(places["queries.jsonl"], asked, problems.skipped)
    exclude = None if options.exclude is None else folder / options.exclude
    paths = find_qrels(folder / "qrels", exclude)
    judged, rest = _judgements(paths, limits, problems.skipped)
    corpus = _corpus(places["corpus.jsonl"], {judgement.document for judgement in judged}, limits, problems)
    _check_is_filled(places["corpus.jsonl"], corpus.ids, problems.skipped)
    kept = [_lowered(each, options.relevant_from) for each in _known(judged, asked, corpus, problems)]
    sampled = list(rest)
    if not corpus.is_whole:
        sampled.append(f"the first {corpus.total:,} documents were read, there are more")
    if len(corpus.documents) < len(corpus.ids):
        sampled.append(f"texts of {len(corpus.documents):,} of {corpus.total:,} documents were looked at")
    by_split: dict[str, dict[str, Text]] = {}
    for judgement in kept:
        by_split.setdefault(judgement.split, {})[judgement.query] = asked[judgement.query]
    judged_queries = {query for queries in by_split.values() for query in queries}
    unjudged = {query: text for query, text in asked.items() if query not in judged_queries}
    splits = tuple(by_split)
    tables = ", ".join(f"qrels/{path.name}" for path in paths.values())
    return Content(
        folder.resolve().name,
        "BEIR",
        f"a folder with corpus.jsonl, queries.jsonl and {tables}",
        has_ids=True,
        queries={**by_split, "not judged": unjudged} if unjudged else by_split,
        documents=corpus.documents,
        judgements=kept,
        records=_records(kept, asked, corpus.documents),
        size=f"{counted(corpus.total, 'document')}, {counted(len(asked), 'query', 'queries')}, "
        f"{counted(len(judged), 'judgement')}",
        sampled=tuple(sampled),
        findings=(*problems.findings(), *_empty(corpus.documents, asked)),
        judged_splits=splits,
        skips=problems.skipped.skips,
    )


def _check_is_filled(file: Path, found: Collection[Any], skipped: SkippedRows) -> None:
    """Raise ValueError if nothing was found in a file."""
    if not found:
        reason = f"no row is left; the first that was left out: {skipped.first}" if skipped.rows else "it is empty"
        raise ValueError(f"{file}: {reason}: write its rows again, or check that it is the file you mean")


def _by_id(rows: Iterator[Record], read: Any, problems: Problems) -> dict[str, Text]:
    """The texts by id. Of an id that occurs twice the first text is kept."""
    found: dict[str, Text] = {}
    for where, row in show_progress(readable(rows, problems.skipped), "reading queries", unit="rows"):
        for key, text in read([(where, row)], problems.skipped).items():
            if key in found:
                problems.repeated.append(f"{where}: {key!r}, first at {found[key].where}")
            else:
                found[key] = Text(where, text)
    return found


def _judgements(paths: Mapping[str, Path], limits: Limits, skipped: SkippedRows) -> tuple[list[Judgement], list[str]]:
    """The judgements of all splits, and what was not read."""
    found: list[Judgement] = []
    left = []
    for split, path in paths.items():
        own: set[str] = set()
        for row in show_progress(readable(read_tsv(path), skipped), "reading judgements", unit="rows"):
            where, query, document, _ = row
            own.add(split)
            if len(found) >= limits.judgements:
                left.append(f"the first {len(found):,} judgements were read, there are more")
                break
            try:
                grade = read_qrels(str(path), [row], {document: ""}, {query: ""})[query][document]
            except ValueError as error:
                skipped.leave_out(where, error)
            else:
                found.append(Judgement(where, split, query, query, document, grade, "qrels"))
        _check_is_filled(path, own, skipped)
    return found, left[:1]


def _corpus(file: Path, judged: set[str], limits: Limits, problems: Problems) -> Corpus:
    kept: dict[str, Text] = {}
    others: EvenSample[tuple[str, Text]] = EvenSample(limits.rows, limits.characters)
    ids: set[str] = set()
    characters = 0
    rows = readable(read_json_lines(file), problems.skipped)
    for where, row in show_progress(rows, "reading documents", unit="rows"):
        if len(ids) >= limits.rows * limits.scanned:
            return Corpus(kept | dict(others.kept), ids, len(ids), False)
        for key, text in read_documents([(where, row)], problems.skipped).items():
            if key in ids:
                first = kept.get(key) or dict(others.kept).get(key)
                problems.repeated.append(f"{where}: {key!r}{f', first at {first.where}' if first else ''}")
                continue
            ids.add(key)
            if key in judged and len(kept) < limits.rows and characters < limits.characters:
                kept[key] = Text(where, text)
                characters += len(text)
            else:
                others.add((key, Text(where, text)), len(text))
    return Corpus(kept | dict(others.kept), ids, len(ids), True)


def _known(
    judged: list[Judgement], queries: Mapping[str, Text], corpus: Corpus, problems: Problems
) -> Iterator[Judgement]:
    """The judgements of known queries and documents, one of each pair."""
    first: dict[tuple[str, str, str], Judgement] = {}
    for judgement in judged:
        problems.num_judgements += 1
        known = judgement.document in corpus.ids or not corpus.is_whole
        if judgement.query not in queries or not known:
            problems.dangling.append(f"{judgement.where}: query {judgement.query!r}, document {judgement.document!r}")
            continue
        other = first.setdefault((judgement.split, judgement.query, judgement.document), judgement)
        if other is judgement:
            yield judgement
        elif other.label != judgement.label:
            problems.twice.append(
                f"{judgement.where}: query {judgement.query!r}, document {judgement.document!r}: "
                f"{judgement.label}, at {other.where} {other.label}"
            )


def _lowered(judgement: Judgement, relevant_from: float | None) -> Judgement:
    """The judgement with a grade below `relevant_from` set to 0."""
    is_low = relevant_from is not None and (judgement.label or 0) < relevant_from
    return judgement._replace(label=0) if is_low else judgement


def _records(judged: list[Judgement], queries: Mapping[str, Text], documents: Mapping[str, Text]) -> list[ListRecord]:
    """The lists of some queries, in the form of rows."""
    found: dict[str, ListRecord] = {}
    for judgement in judged:
        if judgement.document not in documents:
            continue
        if judgement.query not in found and len(found) >= MAX_RECORDS:
            continue
        where = queries[judgement.query].where
        empty = ListRecord(where, "lists", queries[judgement.query].text, [], [])
        record = found.setdefault(judgement.query, empty)
        assert record.labels is not None
        assert judgement.label is not None
        record.documents.append(documents[judgement.document].text)
        record.labels.append(judgement.label)
    return [replace(record) for record in found.values()]


def _empty(documents: Mapping[str, Text], queries: Mapping[str, Text]) -> Iterator[Finding]:
    for what, texts in (("documents", documents), ("queries", queries)):
        empty = [f"{text.where}: {key!r}" for key, text in texts.items() if is_empty(text.text)]
        if not empty:
            continue
        everything = len(empty) == len(texts)
        yield Finding(
            "error" if everything else "warning",
            f"empty {what}",
            f"{len(empty):,} of {len(texts):,} {what} {have(len(empty))} no text",
            f"fill in the texts, or remove these {what} and their judgements",
            first_few(empty),
        )


def available_of_judgements(content: Content) -> frozenset[str]:
    """What training lists give to a loss, if the first stage finds documents beside the relevant ones."""
    grades: dict[str, dict[str, int]] = {}
    for judgement in content.judgements:
        if judgement.split == "train":
            grades.setdefault(judgement.query, {})[judgement.document] = int(judgement.label or 0)
    return JUDGED_LISTS | unit_labels(grades)


def beir_folder(place: Path) -> Path | None:
    """The folder in BEIR's layout that a path names, by itself or by its corpus or queries; None if it names none."""
    try:
        check_is_no_collection("", place)
    except ValueError:
        return place if place.is_dir() else place.parent
    return None
