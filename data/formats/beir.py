"""Collections in BEIR's layout: a folder, or a data set of the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.collection import SPLITS, Collection, Judgements
from data.formats.file_format import Record
from data.formats.jsonl import check_column, field_of, read_json_lines, read_lines, unique
from data.source import SourceOptions, Texts

logger = logging.getLogger(__name__)

COLUMNS = ("query-id", "corpus-id", "score")
MAX_GRADE = 1000  # far above real scales of relevance, which end at 3 or 4
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

Row = tuple[str, str, str, object]  # where, query id, document id, grade


@dataclass(frozen=True, kw_only=True)
class BEIRConfig(SourceOptions):
    """A folder with `corpus.jsonl {_id, title, text}`, `queries.jsonl {_id, text}` (each also .gz) and
    `qrels/{train,dev,test}.tsv` (header `query-id corpus-id score`), or a hub id such as BeIR/scifact, whose judgements
    are in BeIR/scifact-qrels. Without a dev split, `dev_fraction` of the training queries, chosen by a hash of their
    ids, become it.
    """

    path: str
    exclude: str | None = None  # a qrels file in the folder (qrels/source_docs.tsv): its pairs are never negatives

    def build(self) -> Collection:
        folder = Path(self.path).expanduser()
        if folder.is_dir():
            return self.assemble(folder.resolve().name, read_folder(folder, self.exclude))
        if folder.exists() or not HUB_ID.fullmatch(self.path):
            raise FileNotFoundError(f"data.path={self.path}: no such folder, and no hub id (owner/name) either")
        if self.exclude is not None:
            raise ValueError(f"data.exclude={self.exclude} needs a local folder, but data.path={self.path} is a hub id")
        return self.assemble(self.path, read_hub(self.path))


def read_folder(folder: Path, exclude: str | None = None) -> Texts:
    """Read all splits of a local BEIR folder. Errors name file, line and key."""
    documents = read_documents(read_json_lines(_find(folder, "corpus.jsonl")))
    queries = read_queries(read_json_lines(_find(folder, "queries.jsonl")))
    paths = {split: folder / "qrels" / f"{split}.tsv" for split in SPLITS}
    qrels = {
        split: read_qrels(str(path), _read_tsv(path), documents, queries)
        for split, path in paths.items()
        if path.is_file()
    }
    if not qrels:
        raise FileNotFoundError(
            f"no train.tsv, dev.tsv or test.tsv in {folder / 'qrels'} ({_listing(folder / 'qrels')})"
        )
    if exclude is None:
        return Texts(documents, queries, qrels)
    path = folder / exclude
    if not path.is_file():
        raise FileNotFoundError(f"data.exclude={exclude}: no such file in {folder} ({_listing(path.parent)})")
    pairs = read_qrels(str(path), _read_tsv(path), documents, queries)
    return Texts(documents, queries, qrels, {query: set(judged) for query, judged in pairs.items()})


def read_hub(name: str) -> Texts:
    """Read BEIR's layout on the hub: `name` has the configurations corpus and queries, `name-qrels` the splits."""
    from datasets import load_dataset

    try:
        corpus = load_dataset(name, "corpus", split="corpus")
        queries = load_dataset(name, "queries", split="queries")
        judgements = load_dataset(f"{name}-qrels")
    except Exception as error:  # the hub's client raises many kinds: offline, unknown, gated, another layout
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ValueError(f"data.path={name} is neither a folder nor BEIR data on the hub ({reason})") from error
    documents = read_documents((f"{name} corpus:{i}", row) for i, row in enumerate(corpus, start=1))
    texts = read_queries((f"{name} queries:{i}", row) for i, row in enumerate(queries, start=1))
    qrels = {}
    for split, rows in judgements.items():
        where = f"{name}-qrels {split}"
        pairs = (_hub_row(f"{where}:{i}", row) for i, row in enumerate(rows, start=1))
        qrels["dev" if split == "validation" else split] = read_qrels(where, pairs, documents, texts)
    return Texts(documents, texts, qrels)


def read_documents(records: Iterable[Record]) -> dict[str, str]:
    """The documents {id: title + " " + text}."""
    return unique(
        (where, _identifier(where, record), _joined(where, record, field_of(where, record, "text")))
        for where, record in records
    )


def read_queries(records: Iterable[Record]) -> dict[str, str]:
    """The queries {id: text}."""
    return unique((where, _identifier(where, record), field_of(where, record, "text")) for where, record in records)


def read_qrels(name: str, rows: Iterable[Row], documents: Mapping[str, str], queries: Mapping[str, str]) -> Judgements:
    """The judgements of known queries and documents. One warning gives the number of others.

    Raises ValueError if no judgement has a known query and document.
    """
    qrels: Judgements = {}
    total, dangling, first = 0, 0, ""
    for where, query_id, document_id, value in rows:
        try:
            grade = int(str(value))
        except ValueError:
            raise ValueError(f"{where}: the score must be an integer, got {value!r}") from None
        if abs(grade) > MAX_GRADE:
            raise ValueError(f"{where}: the score must lie in -{MAX_GRADE} ... {MAX_GRADE}, got {grade:.3g}")
        total += 1
        if query_id not in queries or document_id not in documents:
            dangling += 1
            first = first or f"{where}: query {query_id!r}, document {document_id!r}"
        elif qrels.setdefault(query_id, {}).setdefault(document_id, grade) != grade:
            raise ValueError(
                f"{where}: query {query_id!r} and document {document_id!r} are judged twice, "
                f"{qrels[query_id][document_id]} and {grade}; keep one"
            )
    if not qrels:
        reason = (
            f"none of its {total} rows names a known query and document (first {first})" if total else "it is empty"
        )
        raise ValueError(f"{name}: {reason}; it needs the columns {', '.join(COLUMNS)}")
    if dangling:
        logger.warning(
            "%s: %d of %d rows name unknown queries or documents and are left out (first %s)",
            name,
            dangling,
            total,
            first,
        )
    return qrels


def _identifier(where: str, record: Mapping[str, object]) -> str:
    """The id. It is checked here, so that a run does not fail at its end, when it writes the rankings."""
    identifier = field_of(where, record, "_id")
    check_column(f"{where}: _id", identifier)
    return identifier


def _joined(where: str, record: Mapping[str, object], text: str) -> str:
    title = field_of(where, record, "title") if record.get("title") is not None else ""
    return f"{title} {text}".strip()


def _read_tsv(path: Path) -> Iterator[Row]:
    """The rows of a judgement file. Columns are found by their names in the header, in any order."""
    lines = read_lines(path)
    where, header = next(lines, (f"{path}:1", ""))
    names = header.split("\t")
    if sorted(names) != sorted(COLUMNS):
        raise ValueError(f"{where}: expected the header {' '.join(COLUMNS)} (tab-separated), got {header!r}")
    query, document, score = (names.index(column) for column in COLUMNS)
    for where, line in lines:
        cells = line.split("\t")
        if len(cells) != len(names):
            raise ValueError(f"{where}: expected {len(names)} tab-separated columns, got {len(cells)}: {line!r}")
        yield where, cells[query], cells[document], cells[score]


def _hub_row(where: str, row: Mapping[str, object]) -> Row:
    query, document, score = (field_of(where, row, column, object) for column in COLUMNS)
    return where, str(query), str(document), score


def _find(folder: Path, name: str) -> Path:
    """Find the file, plain or gzip. Raises FileNotFoundError, which lists the folder's files."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {name} or {name}.gz in {folder} ({_listing(folder)})")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return f"found: {', '.join(names[:10])}" if names else "it is empty or missing"
