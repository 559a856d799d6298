"""Collections in BEIR's layout: a folder, or a data set of the Hugging Face hub."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from data.cache import cached
from data.collection import SPLITS, Collection, Judgements, content_hash
from data.formats.file_format import Record
from data.formats.jsonl import check_column, field_of, read_json_lines, read_lines, unique
from data.hashing import file_digest
from data.source import SourceOptions, Texts
from data.store.build import open_stored, stored_if_large
from data.store.texts import StoredTexts, write_rows

logger = logging.getLogger(__name__)

COLUMNS = ("query-id", "corpus-id", "score")
TREC = (0, 2, 3)  # the places of COLUMNS in TREC's judgements: qid iteration docid grade
SPLIT_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}  # as found
ROW_NUMBER = re.compile(r"|unnamed: \d+|index|level-\d+")  # names of the index of pandas
CODE_OF_DOCUMENTS = ("formats/beir.py", "formats/jsonl.py", "formats/text_file.py", "store/texts.py")
STORED_FROM_ROWS = 150_000  # documents of a collection of the hub, whose files are not at hand
MAX_GRADE = 1000  # far above real scales of relevance, which end at 3 or 4
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

Row = tuple[str, str, str, object]  # where, query id, document id, grade


@dataclass(frozen=True, kw_only=True)
class BEIRConfig(SourceOptions):
    """A folder with `corpus.jsonl {_id, title, text}`, `queries.jsonl {_id, text}` and `qrels/{train,dev,test}.tsv`
    (see `read_tsv`; validation.tsv is dev), each also .gz, or a hub id (see `read_hub`). Without a dev split,
    `dev_fraction` of the training queries, chosen by a hash of their ids, become it.
    """

    path: str
    exclude: str | None = None  # a qrels file in the folder (qrels/source_docs.tsv): its pairs are never negatives

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The files of a local folder; none of a data set of the hub."""
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            return {}
        qrels = folder / "qrels"
        tables = sorted(file for end in ("", ".gz") for file in qrels.glob(f"*.tsv{end}") if file.is_file())
        files = [_find(folder, "corpus.jsonl"), _find(folder, "queries.jsonl"), *tables]
        found = {"path": {str(file.relative_to(folder)).removesuffix(".gz"): file for file in files}}
        return found if self.exclude is None else {**found, "exclude": {"": folder / self.exclude}}

    def build(self) -> Collection:
        folder = Path(self.path).expanduser()
        if folder.is_dir():
            return stored_if_large(self, self.places(), self._read)
        if folder.exists() or not HUB_ID.fullmatch(self.path):
            raise FileNotFoundError(f"data.path={self.path}: no such folder, and no hub id (owner/name) either")
        if self.exclude is not None:
            raise ValueError(f"data.exclude={self.exclude} needs a local folder, but data.path={self.path} is a hub id")
        hub = HubParts.load(self.path)
        if len(hub.corpus) >= STORED_FROM_ROWS:
            return open_stored(self, {"path": hub.fingerprints})
        return self.assemble(self.path, read_hub(hub))

    def _read(self) -> Collection:
        folder = Path(self.path).expanduser()
        return self.assemble(folder.resolve().name, read_folder(folder, self.exclude))

    @property
    def stored_name(self) -> str:
        return Path(self.path).expanduser().resolve().name

    def build_stored(self) -> Collection:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            hub = HubParts.load(self.path)
            return self.assemble(self.path, read_hub(hub, hub.stored_documents(self.cache)))
        documents = stored_corpus(_find(folder, "corpus.jsonl"), self.cache)
        return self.assemble(folder.resolve().name, read_folder(folder, self.exclude, documents))

    def for_evaluation(self, split: str) -> BEIRConfig:
        return replace(self, dev_fraction=0.0) if split == "train" else self


def read_folder(folder: Path, exclude: str | None = None, documents: Mapping[str, str] | None = None) -> Texts:
    """Read all splits of a local BEIR folder, without its corpus if the `documents` are passed. Errors name file, line
    and key."""
    if documents is None:
        documents = read_documents(read_json_lines(_find(folder, "corpus.jsonl")))
    queries = read_queries(read_json_lines(_find(folder, "queries.jsonl")))
    paths = find_qrels(folder / "qrels", None if exclude is None else folder / exclude)
    qrels = {split: read_qrels(str(path), read_tsv(path), documents, queries) for split, path in paths.items()}
    if exclude is None:
        return Texts(documents, queries, qrels)
    path = folder / exclude
    if not path.is_file():
        raise FileNotFoundError(f"data.exclude={exclude}: no such file in {folder} ({_listing(path.parent)})")
    pairs = read_qrels(str(path), read_tsv(path), documents, queries)
    return Texts(documents, queries, qrels, {query: set(judged) for query, judged in pairs.items()})


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
        raise FileNotFoundError(f"no train.tsv, dev.tsv or test.tsv in {folder} ({_listing(folder)})")
    others = [path.name for path in files if path.name not in known and path != exclude]
    if others:
        logger.warning(
            "%s: not read: %s (splits are train.tsv, dev.tsv or validation.tsv, test.tsv)", folder, ", ".join(others)
        )
    return {split: found[split] for split in SPLITS if split in found}


@dataclass(frozen=True)
class HubParts:
    """A collection of the hub: `name` has the configurations corpus and queries. The judgements by split are those of
    `name-qrels` (BeIR), of the configuration qrels (NanoBEIR) or of the default one (mteb)."""

    name: str
    corpus: Any
    queries: Any
    judgements: Mapping[str, Any]

    @classmethod
    def load(cls, name: str) -> HubParts:
        from datasets import load_dataset

        try:
            corpus, queries = (_only_split(load_dataset(name, part), part) for part in ("corpus", "queries"))
            return cls(name, corpus, queries, _hub_qrels(load_dataset, name))
        except Exception as error:  # the hub's client raises many kinds: offline, unknown, gated, another layout
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise ValueError(f"data.path={name} is neither a folder nor BEIR data on the hub ({reason})") from error

    @property
    def fingerprints(self) -> dict[str, str]:
        """What `datasets` calls the fingerprints of the parts: they change with the content."""
        parts = {"corpus": self.corpus, "queries": self.queries, **self.judgements}
        return {name: part._fingerprint for name, part in parts.items()}

    def documents(self) -> Iterator[Record]:
        """The rows of the corpus."""
        return ((f"{self.name} corpus:{number}", row) for number, row in enumerate(self.corpus, start=1))

    def stored_documents(self, cache: Path) -> StoredTexts:
        """The documents in the cache's memory-mapped files."""
        key = content_hash([self.corpus._fingerprint, _code_of_documents()])
        return _stored(cache / "texts" / f"{self.name.replace('/', '-')}-{key}", self.documents)


def read_hub(hub: HubParts, documents: Mapping[str, str] | None = None) -> Texts:
    """Read a collection of the hub, without its corpus if the `documents` are passed."""
    if documents is None:
        documents = read_documents(hub.documents())
    name = hub.name
    texts = read_queries((f"{name} queries:{i}", row) for i, row in enumerate(hub.queries, start=1))
    names = {alias: split for split, aliases in SPLIT_NAMES.items() for alias in aliases}
    qrels = {}
    for split, rows in hub.judgements.items():
        where = f"{name} qrels {split}"
        pairs = (_hub_row(f"{where}:{i}", row) for i, row in enumerate(rows, start=1))
        qrels[names.get(split, split)] = read_qrels(where, pairs, documents, texts)
    return Texts(documents, texts, qrels)


def _hub_qrels(load_dataset: Callable[..., Any], name: str) -> Mapping[str, Any]:
    """The judgements by split, from the first of the three places that has some."""
    places: tuple[tuple[str, ...], ...] = ((f"{name}-qrels",), (name, "qrels"), (name, "default"))
    for place in places[:-1]:
        with suppress(Exception):  # no such data set or configuration: the next place has it
            return load_dataset(*place)
    return load_dataset(*places[-1])


def _only_split(dataset: Mapping[str, Any], part: str) -> Any:
    """The rows of the corpus or the queries: the split of that name, or the only one."""
    if part in dataset:
        return dataset[part]
    if len(dataset) > 1:
        raise ValueError(f"{part} has the splits {', '.join(dataset)}, and none is called {part}")
    return next(iter(dataset.values()))


def read_documents(records: Iterable[Record]) -> dict[str, str]:
    """The documents {id: title + " " + text}."""
    return unique((where, *document_of(where, record)) for where, record in records)


def document_of(where: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """The id of a document and its title and text."""
    return _identifier(where, record), _joined(where, record, field_of(where, record, "text"))


def stored_corpus(path: Path, cache: Path) -> StoredTexts:
    """The documents of a corpus.jsonl in the cache's memory-mapped files."""
    key = content_hash([file_digest(path), _code_of_documents()])
    return _stored(cache / "texts" / f"{path.resolve().parent.name}-{key}", lambda: read_json_lines(path))


def _code_of_documents() -> list[str]:
    """The code that stored documents depend on: after other changes they are still good."""
    package = Path(__file__).parents[1]
    return [(package / name).read_text() for name in CODE_OF_DOCUMENTS]


def _stored(folder: Path, records: Callable[[], Iterator[Record]]) -> StoredTexts:
    def make(path: Path) -> None:
        write_rows(path, records, document_of)

    return StoredTexts(cached(folder, make, resumable=True))


def read_queries(records: Iterable[Record]) -> dict[str, str]:
    """The queries {id: text}."""
    return unique((where, _identifier(where, record), field_of(where, record, "text")) for where, record in records)


def read_qrels(name: str, rows: Iterable[Row], documents: Mapping[str, str], queries: Mapping[str, str]) -> Judgements:
    """The judgements of known queries and documents. One warning gives the number of others.

    Raises ValueError if no judgement has a known query and document.
    """
    qrels: dict[str, dict[str, int]] = {}
    total, dangling, first = 0, 0, ""
    for where, query_id, document_id, value in rows:
        grade = _grade(where, value)
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


def _grade(where: str, value: object) -> int:
    """The grade, which may be written 1 or 1.0. Raises ValueError if it is no integer."""
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(f"{where}: the score must be an integer, got {value!r}")
    return int(number)


def _identifier(where: str, record: Mapping[str, object]) -> str:
    """The id. It is checked here, so that a run does not fail at its end, when it writes the rankings."""
    identifier = field_of(where, record, "_id")
    check_column(f"{where}: _id", identifier)
    return identifier


def _joined(where: str, record: Mapping[str, object], text: str) -> str:
    title = field_of(where, record, "title") if record.get("title") is not None else ""
    return f"{title} {text}".strip()


def read_tsv(path: Path) -> Iterator[Row]:
    """The rows of a judgement file: query id, document id, and a score, which is 1 if there is no such column.

    The columns are found by their names in the header, in any order. A file without a header has TREC's four columns
    (qid iteration docid grade), these three, or two without a score, separated by white space.
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
    for where, line in lines:
        cells = line.split(separator)
        if len(cells) != len(names):
            separated = "tab-separated " if separator else ""
            raise ValueError(f"{where}: expected {len(names)} {separated}columns, got {len(cells)}: {line!r}")
        query, document, *score = (cells[place].strip() for place in places)
        yield where, query, document, score[0] if score else 1


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


def _hub_row(where: str, row: Mapping[str, object]) -> Row:
    query, document = (field_of(where, row, column, object) for column in COLUMNS[:2])
    return where, str(query), str(document), row.get("score", 1)


def _find(folder: Path, name: str) -> Path:
    """Find the file, plain or gzip. Raises FileNotFoundError, which lists the folder's files."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {name} or {name}.gz in {folder} ({_listing(folder)})")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return f"found: {', '.join(names[:10])}" if names else "it is empty or missing"
