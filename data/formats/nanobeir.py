"""Collections in NanoBEIR's layout: corpus, queries and qrels as parquet or JSONL, of one set or of several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.collection import Collection
from data.formats.beir import check_folder_or_hub_id, judgement_of, read_documents, read_queries
from data.formats.file_format import Record
from data.formats.jsonl import read_json_lines
from data.formats.parquet import read_parquet
from data.formats.qrels import SPLIT_NAMES, listing, read_qrels
from data.formats.skipped import SkippedRows, check_on_error
from data.source import SourceOptions, Texts

PARTS = ("corpus", "queries", "qrels")
FILE = re.compile(r"(?P<name>.+?)(?:-\d{5}-of-\d{5})?(?P<suffix>\.parquet|\.jsonl(?:\.gz)?)")
SPLIT_OF = {alias: split for split, aliases in SPLIT_NAMES.items() for alias in aliases}

Rows = Mapping[str, Any]  # the tables of a part by the name of their set or split: files, or a data set of the hub


@dataclass(frozen=True, kw_only=True)
class NanoBEIRConfig(SourceOptions):
    """A folder or hub id whose parts (folders, or configurations of the hub) are `corpus` (_id, text, title if there
    is one), `queries` (_id, text) and `qrels` (query-id, corpus-id, score if there is one).

    If the corpus has several tables (NanoSciFact-00000-of-00001.parquet, NanoNQ.jsonl, ...; on the hub: splits), each
    is a set with the queries and judgements of the same name, and `subset` chooses one. A set is only evaluated: its
    judgements are the split test, whatever their name. With one corpus, several tables of judgements are train, dev and
    test by their names.
    """

    path: str
    subset: str | None = None
    on_error: str = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_on_error(self.on_error)

    def evaluated_sets(self) -> Mapping[str, NanoBEIRConfig]:
        names = list(self._parts()["corpus"])
        if self.subset is not None or len(names) < 2:
            return {"": self}
        return {name: replace(self, subset=name) for name in names}

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The files of a local folder; none of a data set of the hub."""
        folder = Path(self.path).expanduser()
        parts = local_parts(folder).values() if folder.is_dir() else []
        files = [file for tables in parts for found in tables.values() for file in found]
        return {"path": {str(file.relative_to(folder)): file for file in files}} if files else {}

    def check_place(self) -> None:
        check_folder_or_hub_id(self.path)

    def build(self) -> Collection:
        parts = self._parts()
        names, chosen = list(parts["corpus"]), self.subset
        if chosen is not None and chosen not in names:
            raise ValueError(f"data.subset={chosen} is no set of {self.path}: it has {', '.join(names)}")
        if chosen is None and len(names) > 1:
            raise ValueError(
                f"data.path={self.path} has several sets: data.subset=NAME chooses one: {', '.join(names)}"
            )
        skipped = SkippedRows(self.on_error)
        documents = read_documents(self._rows(parts, "corpus", chosen), skipped)
        queries = read_queries(self._rows(parts, "queries", chosen), skipped)
        qrels = {}
        for split, name in self._tables_by_split(list(parts["qrels"])).items():
            pairs = map(judgement_of, _single(self._rows(parts, "qrels", name)))
            qrels[split] = read_qrels(f"{self.path} qrels {name}", pairs, documents, queries, skipped)
        name = chosen or Path(self.path).expanduser().resolve().name
        skipped.announce(name)
        return replace(self.assemble(name, Texts(documents, queries, qrels)), skipped=tuple(skipped.rows))

    def _tables_by_split(self, names: list[str]) -> dict[str, str]:
        """The tables of judgements that are read, by split."""
        if self.subset is not None:
            return {"test": self.subset}
        if len(names) == 1:
            return {"test": names[0]}
        found = {SPLIT_OF[name]: name for name in names if name in SPLIT_OF}
        if not found:
            raise ValueError(f"data.path={self.path}: qrels has {', '.join(names)}, and none is train, dev or test")
        return found

    def _parts(self) -> dict[str, Rows]:
        self.check_place()
        folder = Path(self.path).expanduser()
        if folder.is_dir():
            return local_parts(folder)
        return _hub_parts(self.path)

    def _rows(self, parts: Mapping[str, Rows], part: str, name: str | None) -> Iterator[Record]:
        """The rows of the table of that name, or of the only one."""
        tables = parts[part]
        if name not in tables and len(tables) > 1:
            raise ValueError(f"data.path={self.path}: {part} has {', '.join(tables)}, and no {name or 'single table'}")
        table: Any = next((tables[key] for key in tables if key == name), next(iter(tables.values())))
        if isinstance(table, list):
            yield from (row for file in table for row in _reader(file)(file))
        else:
            yield from ((f"{self.path} {part} {name}:{number}", row) for number, row in enumerate(table, start=1))


def is_nanobeir(path: str) -> bool:
    """Whether a folder, or a data set of the hub that can be reached, has the layout."""
    folder = Path(path).expanduser()
    if folder.exists():
        try:
            return folder.is_dir() and bool(local_parts(folder))
        except FileNotFoundError:
            return False
    try:
        parts = _hub_parts(path)
    except ValueError:  # also what is no data set at all: the reader of BEIR's layout says so
        return False
    return len(parts["corpus"]) > 1 or list(parts["qrels"]) == list(parts["corpus"])


def local_parts(folder: Path) -> dict[str, Rows]:
    """The files of each part by the name of their set: those in the part's folder, or one beside it of that name.

    Raises FileNotFoundError if a part has none.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for part in PARTS:
        tables = found.setdefault(part, {})
        for file in sorted([*folder.glob(f"{part}/*"), *folder.glob(f"{part}.*"), *folder.glob(f"{part}-*-of-*")]):
            if (named := FILE.fullmatch(file.name)) and file.is_file():
                tables.setdefault(named["name"], []).append(file)
        if not tables:
            raise FileNotFoundError(f"no {part} (parquet or JSONL) in {folder} ({listing(folder)})")
    return {part: dict(tables) for part, tables in found.items()}


def _hub_parts(name: str) -> dict[str, Rows]:
    """The splits of each part. Raises ValueError if the hub has no such data set or cannot be reached."""
    from datasets import load_dataset

    try:
        return {part: load_dataset(name, part) for part in PARTS}
    except Exception as error:  # the hub's client raises many kinds: offline, unknown, gated, another layout
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ValueError(f"data.path={name} is neither a folder nor NanoBEIR data on the hub ({reason})") from error


def _reader(file: Path) -> Any:
    return read_parquet if file.suffix == ".parquet" else read_json_lines


def _single(rows: Iterator[Record]) -> Iterator[Record]:
    """The judgements, one document a row: some repositories list all documents of a query in one."""
    for where, row in rows:
        listed = row.get("corpus-id")
        for document in listed if isinstance(listed, list) else [listed]:
            yield where, row if document is None else {**row, "corpus-id": document}
