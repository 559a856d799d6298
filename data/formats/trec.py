"""Read and write TREC run files and judgements (qrels), and teacher scores by id."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path

from data.formats.file_format import FileFormat, Record
from data.formats.jsonl import check_column, field_of, read_json_lines, read_lines
from data.formats.row_error import RowError
from data.formats.text_file import with_compressions

PROBED = 20  # lines by which a file is recognised
RUN_LINE = re.compile(r"\s*\S+\s+[Qq]?\S\s+\S+\s+\d+\s+\S+\s+\S+\s*")  # qid Q0 docid rank score tag
QRELS_LINE = re.compile(r"\s*\S+\s+(\d+|[Qq]\d)\s+\S+\s+-?\d+(\.0+)?\s*")  # qid 0 docid grade

Run = dict[str, dict[str, float]]  # query id -> document id -> score, in the file's order


def read_run(path: Path) -> Run:
    """Read a TREC run file, or teacher scores if the name has the suffix `.jsonl`, plain or gzip.

    Raises ValueError with file and line if a line is malformed, a score is not finite, or a document is listed twice.
    """
    return read_teacher_scores(path) if ".jsonl" in path.suffixes else read_trec_run(path)


def read_trec_run(path: Path) -> Run:
    """Read lines of `qid Q0 docid rank score tag`. As in trec_eval the scores decide, not the column `rank`."""
    return _collect(_trec_rows(read_lines(path)))


def read_teacher_scores(path: Path) -> Run:
    """Read lines of `{"query_id": ..., "document_ids": [...], "scores": [...]}`. The lists may be empty."""
    return _collect(_teacher_rows(path))


def write_trec_run(path: Path, run: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """Write a TREC run file atomically, best document first, with scores that are read back unchanged.

    Raises ValueError if an id or the tag is empty or has white space, which separates the columns.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for query_id, scores in run.items():
                ranked = sorted(scores.items(), key=lambda item: -item[1])
                for rank, (document_id, score) in enumerate(ranked, start=1):
                    for name, value in (("query id", query_id), ("document id", document_id), ("tag", tag)):
                        check_column(f"{path}: {name}", value)
                    file.write(f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_lists(file: Path) -> Iterator[Record]:
    """The rows of a run, {query_id, document_ids, scores} for each query, or of judgements, {query_id, document_id,
    label}. A negative grade is 0, not relevant, as in trec_eval."""
    if _is_run(file):
        return map(_list_of_query, groupby(_strict(read_lines(file)), key=lambda numbered: numbered[1].split()[:1]))
    return map(_judgement, read_lines(file))


def is_trec(file: Path) -> bool:
    """Whether a file is a run or has judgements, by its first lines."""
    return _is_run(file) or _matches(file, QRELS_LINE)


def _is_run(file: Path) -> bool:
    return _matches(file, RUN_LINE)


def _matches(file: Path, pattern: re.Pattern[str]) -> bool:
    try:
        lines = [line for _, line in islice(read_lines(file), PROBED)]
    except ValueError:  # the reader of the other formats says what is wrong
        return False
    matching = [pattern.fullmatch(line) is not None for line in lines]
    # The first may be a header. A later one may be malformed, if there are several.
    return bool(matching) and matching[0] and sum(matching) >= len(matching) - (len(matching) > 3)


def _strict(lines: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The lines. One that cannot be read ends the reading, since the lines before it are part of the same list."""
    try:
        yield from lines
    except RowError as error:
        raise ValueError(str(error)) from None


def _list_of_query(group: tuple[list[str], Iterator[tuple[str, str]]]) -> Record:
    """The row of consecutive lines of a query."""
    _, lines = group
    numbered = list(lines)
    where = numbered[0][0]
    try:
        scores = next(iter(_collect(_trec_rows(numbered)).values()))
    except ValueError as error:
        place = next((place for place, _ in numbered if str(error).startswith(f"{place}: ")), where)
        raise RowError(place, str(error)) from None
    return where, {
        "query_id": numbered[0][1].split()[0],
        "document_ids": list(scores),
        "scores": list(scores.values()),
    }


def _judgement(numbered: tuple[str, str]) -> Record:
    where, line = numbered
    parts = line.split()
    if len(parts) != 4:
        raise RowError(where, f"{where}: expected 4 columns (qid 0 docid grade), got {len(parts)}")
    try:
        grade = float(parts[3])
    except ValueError:
        grade = math.nan
    if not grade.is_integer():
        raise RowError(where, f"{where}: the grade (column 4) must be a whole number, got {parts[3][:40]!r}")
    return where, {"query_id": parts[0], "document_id": parts[2], "label": max(int(grade), 0)}


def _collect(rows: Iterable[tuple[str, str, str | None, float]]) -> Run:
    run: Run = {}
    for where, query_id, document_id, score in rows:
        scores = run.setdefault(query_id, {})
        if document_id is None:  # an empty list
            continue
        if not math.isfinite(score):
            raise ValueError(f"{where}: the score of document {document_id!r} is {score}; scores must be finite")
        if document_id in scores:
            raise ValueError(f"{where}: document {document_id!r} occurs twice for query {query_id!r}; keep one")
        scores[document_id] = score
    return run


def _trec_rows(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str | None, float]]:
    for where, line in lines:
        parts = line.split()
        if len(parts) != 6:
            raise ValueError(f"{where}: expected 6 columns (qid Q0 docid rank score tag), got {len(parts)}")
        try:
            score = float(parts[4])
        except ValueError:
            raise ValueError(f"{where}: the score (column 5) must be a number, got {parts[4][:40]!r}") from None
        yield where, parts[0], parts[2], score


def _teacher_rows(path: Path) -> Iterator[tuple[str, str, str | None, float]]:
    for where, record in read_json_lines(path):
        query_id = field_of(where, record, "query_id")
        document_ids = field_of(where, record, "document_ids", list)
        scores = field_of(where, record, "scores", list)
        if len(document_ids) != len(scores):
            raise ValueError(f"{where}: {len(document_ids)} document_ids but {len(scores)} scores")
        if not scores:
            yield where, query_id, None, 0.0
        for document_id, score in zip(document_ids, scores, strict=True):
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise ValueError(f"{where}: scores must be numbers, got {score!r}")
            yield where, query_id, str(document_id), float(score)


FORMAT = FileFormat(with_compressions(".tsv", ".txt", ".trec", ".run", ".qrels", ".qrel"), read_lists, is_trec)
