"""Read and write ranked lists: TREC run files and teacher scores."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data.formats.jsonl import check_column, field_of, read_json_lines, read_lines

Run = dict[str, dict[str, float]]  # query id -> document id -> score, in the file's order


def read_run(path: Path) -> Run:
    """Read a TREC run file, or teacher scores if the name has the suffix `.jsonl`, plain or gzip.

    Raises ValueError with file and line if a line is malformed, a score is not finite, or a document is listed twice.
    """
    return read_teacher_scores(path) if ".jsonl" in path.suffixes else read_trec_run(path)


def read_trec_run(path: Path) -> Run:
    """Read lines of `qid Q0 docid rank score tag`. As in trec_eval the scores decide, not the column `rank`."""
    return _collect(_trec_rows(path))


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


def _trec_rows(path: Path) -> Iterator[tuple[str, str, str | None, float]]:
    for where, line in read_lines(path):
        parts = line.split()
        if len(parts) != 6:
            raise ValueError(f"{where}: expected 6 columns (qid Q0 docid rank score tag), got {len(parts)}")
        try:
            score = float(parts[4])
        except ValueError:
            raise ValueError(f"{where}: the score (column 5) must be a number, got {parts[4]!r}") from None
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
