"""Judgement files (qrels) in BEIR's and TREC's layouts."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from data.collection import SPLITS, Judgements
from data.formats.jsonl import read_lines
from data.formats.row_error import RowError
from data.formats.skipped import SkippedRows, readable
from data.progress import show_progress

logger = logging.getLogger(__name__)

COLUMNS = ("query-id", "corpus-id", "score")
TREC = (0, 2, 3)  # the places of COLUMNS in TREC's judgements: qid iteration docid grade
SPLIT_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}  # as found
ROW_NUMBER = re.compile(r"|unnamed: \d+|index|level-\d+")  # names of the index of pandas
MAX_GRADE = 1000  # far above real scales of relevance, which end at 3 or 4

Row = tuple[str, str, str, object]  # where, query id, document id, grade


def find_qrels(folder: Path, exclude: Path | None = None) -> dict[str, Path]:
    """The judgement files of a folder by split. One warning names the others, except `exclude`.

    Raises FileNotFoundError if there is none, and ValueError if a split has several.
    """
    known = {f"{name}.tsv{end}": split for split, names in SPLIT_NAMES.items() for name in names for end in ("", ".gz")}
    files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    found: dict[str, Path] = {}
    for path in files:
        split = known.get(path.name)
        if split is not None and split in found:
            raise ValueError(f"{folder}: {found[split].name} and {path.name} are both judgements of {split}; keep one")
        if split is not None:
            found[split] = path
    if not found:
        raise FileNotFoundError(f"no train.tsv, dev.tsv or test.tsv in {folder} ({listing(folder)})")
    others = [path.name for path in files if path.name not in known and path != exclude]
    if others:
        logger.warning(
            "%s: not read: %s (splits are train.tsv, dev.tsv or validation.tsv, test.tsv)", folder, ", ".join(others)
        )
    return {split: found[split] for split in SPLITS if split in found}


def read_qrels(
    name: str,
    rows: Iterable[Row],
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    skipped: SkippedRows | None = None,
) -> Judgements:
    """The judgements of known queries and documents. One warning gives the number of others.

    Raises ValueError if no judgement has a known query and document, or for a wrong row unless `skipped` notes it.
    """
    skipped = SkippedRows() if skipped is None else skipped
    qrels: dict[str, dict[str, int]] = {}
    total, dangling, first = 0, 0, ""
    known = readable(iter(rows), skipped)
    for where, query_id, document_id, value in show_progress(known, "reading judgements", unit="rows"):
        total += 1
        if query_id not in queries or document_id not in documents:
            dangling += 1
            first = first or f"{where}: query {query_id!r}, document {document_id!r}"
            if skipped.skips:
                skipped.leave_out(where, ValueError(f"query {query_id!r} or document {document_id!r} is unknown"))
            continue
        try:
            _judge(qrels, where, query_id, document_id, _grade(where, value))
        except ValueError as error:
            skipped.leave_out(where, error)
    if not qrels:
        reason = (
            f"none of its {total} rows names a known query and document (first {first})" if dangling else "it is empty"
        )
        if skipped.rows:  # a text that was left out before may be the cause
            reason = f"no row is left; the first that was left out: {skipped.first}"
        raise ValueError(f"{name}: {reason}; it needs the columns {', '.join(COLUMNS)}")
    if dangling and not skipped.skips:  # those that are noted are said with the others
        logger.warning(
            "%s: %d of %d rows name unknown queries or documents and are left out (first %s)",
            name,
            dangling,
            total,
            first,
        )
    return qrels


def _judge(qrels: dict[str, dict[str, int]], where: str, query_id: str, document_id: str, grade: int) -> None:
    """Add a judgement. Raises ValueError if there is another one of this pair."""
    known = qrels.setdefault(query_id, {}).setdefault(document_id, grade)
    if known != grade:
        raise ValueError(
            f"{where}: query {query_id!r} and document {document_id!r} are judged twice, {known} and {grade}; keep one"
        )


def _grade(where: str, value: object) -> int:
    """The grade, which may be written 1 or 1.0. Raises ValueError if it is no integer, or far above any scale."""
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(f"{where}: the score must be an integer, got {value!r}")
    if abs(number) > MAX_GRADE:
        raise ValueError(f"{where}: the score must lie in -{MAX_GRADE} ... {MAX_GRADE}, got {number:.3g}")
    return int(number)


def read_tsv(path: Path) -> Iterator[Row]:
    """The rows of a judgement file: query id, document id, and a score, which is 1 if there is no such column.

    The columns are found by their names in the header, in any order. A file without a header has TREC's four columns
    (qid iteration docid grade), these three, or two without a score, separated by white space. Raises ValueError for a
    wrong header, and RowError for a wrong row; the next rows can be read.
    """
    lines = read_lines(path)
    where, first = next(lines, (f"{path}:1", ""))
    names = [_column(cell) for cell in first.split("\t" if "\t" in first else None)]
    if set(names) & set(COLUMNS):
        places = _named_places(where, first, names)
        separator = "\t" if "\t" in first else None
    else:
        places, separator = _places_without_header(where, first), None
        lines = chain([(where, first)], lines)
    return map(partial(_row, len(names), separator, places), lines)  # a generator would end with the first error


def _row(num_columns: int, separator: str | None, places: tuple[int, ...], line: tuple[str, str]) -> Row:
    where, text = line
    cells = text.split(separator)
    if len(cells) != num_columns:
        separated = "tab-separated " if separator else ""
        raise RowError(where, f"{where}: expected {num_columns} {separated}columns, got {len(cells)}: {text!r}")
    query, document, *score = (cells[place].strip() for place in places)
    return where, query, document, score[0] if score else 1


def _column(cell: str) -> str:
    return cell.strip().lower().replace("_", "-")


def _named_places(where: str, header: str, names: list[str]) -> tuple[int, ...]:
    """The places of query id, document id and, if there is one, score, by the names of a header. With a score, further
    columns are not read; without one, only the row numbers of pandas may stand beside them."""
    others = [name for name in names if name not in COLUMNS and not ROW_NUMBER.fullmatch(name)]
    twice = any(names.count(column) > 1 for column in COLUMNS)
    if twice or not {"query-id", "corpus-id"} <= set(names) or (others and "score" not in names):
        raise ValueError(f"{where}: expected the header {' '.join(COLUMNS)} (score may be missing), got {header!r}")
    return tuple(names.index(column) for column in COLUMNS if column in names)


def _places_without_header(where: str, line: str) -> tuple[int, ...]:
    cells = line.split()
    places = {2: (0, 1), 3: (0, 1, 2), 4: TREC}.get(len(cells), ())
    if not places or (len(places) == 3 and not _is_number(cells[places[2]])):
        raise ValueError(
            f"{where}: expected the header {' '.join(COLUMNS)} (tab-separated), or no header and TREC's columns (qid 0 "
            f"docid grade), got {line!r}"
        )
    return places


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def find_file(folder: Path, name: str) -> Path:
    """Find the file, plain or gzip. Raises FileNotFoundError, which lists the folder's files."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {name} or {name}.gz in {folder} ({listing(folder)})")


def listing(folder: Path) -> str:
    """The names of a folder's files, for messages."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return f"found: {', '.join(names[:10])}" if names else "it is empty or missing"
