"""Rows that name queries and documents by id: their texts are put in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data.formats.file_format import Record
from data.formats.layouts import field_of_column, plain_name
from data.formats.skipped import SkippedRows, readable
from data.formats.text_store import TextStore, id_of
from data.progress import show_progress

_DOCUMENT = r"(doc|docs|document|passage|corpus)_?ids?|docnos?|pids?|dids?"
_KIND = r"(document_|doc_?|passage_|p)?ids?"
COLUMNS = {  # field of ids -> names of its columns, with underscores
    "query_id": re.compile(r"(query|question|topic)_?id|qid"),
    "document_ids": re.compile(_DOCUMENT),
    "positive_ids": re.compile(rf"pos(itive)?s?_{_KIND}"),
    "negative_ids": re.compile(rf"(hard_)?neg(ative)?s?_{_KIND}"),
}
TEXTS = {"document", "documents", "positive", "negative", "chosen", "rejected"}  # fields that hold documents


@dataclass(frozen=True)
class Ids:
    """The columns of a row that hold ids whose texts have to be found, by field of COLUMNS."""

    columns: Mapping[str, str]

    @classmethod
    def of(cls, names: Iterable[str], mapping: Mapping[str, str], ignored: Iterable[str] = ()) -> Ids:
        """The columns of ids. Those of queries and documents whose texts are in the row as well are none."""
        own = {column: field for field, column in mapping.items()}
        names = [name for name in names if name not in set(ignored)]
        texts = {own.get(name) or field_of_column(name) for name in names}
        found: dict[str, str] = {}
        for name in names:
            field = own.get(name) if name in own else _field_of(name)
            if field in COLUMNS:
                found.setdefault(str(field), name)
        if {"query", "prompt"} & texts or {"chosen", "rejected"} <= texts:
            found.pop("query_id", None)
        elif "query_id" in found and not TEXTS & texts and found.keys() == {"query_id"}:
            found.clear()
        if TEXTS & texts:
            found = {field: name for field, name in found.items() if field == "query_id"}
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self.columns)


@dataclass(frozen=True)
class ById:
    """Puts the texts of `documents` and `queries` in the place of ids. The stores are asked for by place
    and column of the ids. `judged` are the grades of documents by query id, which rows of scored documents without
    labels get."""

    mapping: Mapping[str, str]
    ignored: Iterable[str]
    documents: Callable[[str, str], TextStore]
    queries: Callable[[str, str], TextStore]
    judged: Callable[[], Mapping[str, Mapping[str, float]]] = dict

    def with_texts(self, rows: Iterable[Record], skipped: SkippedRows) -> Iterator[Record]:
        """The rows with texts. Raises ValueError, which names file and line, for an id that has no text, unless
        `skipped` notes such rows."""
        known: dict[tuple[str, ...], Ids] = {}
        for where, row in show_progress(readable(iter(rows), skipped), "reading rows", unit="rows"):
            names = tuple(row)
            if names not in known:
                known[names] = ids = Ids.of(names, self.mapping, self.ignored)
                self._open(where, ids)  # a file of texts that cannot be read is no mistake of a row
            if not known[names]:
                yield where, row
                continue
            try:
                found = self._texts(where, row, known[names])
            except ValueError as error:
                skipped.leave_out(where, error)
            else:
                yield where, found

    def _open(self, where: str, ids: Ids) -> None:
        for field, column in ids.columns.items():
            (self.queries if field == "query_id" else self.documents)(where, column).open()

    def _texts(self, where: str, row: Mapping[str, Any], ids: Ids) -> dict[str, Any]:
        texts = {name: value for name, value in row.items() if name not in ids.columns.values()}
        for field, column in ids.columns.items():
            if field == "query_id":
                texts["query"] = _text(self.queries(where, column), where, column, row.get(column))
                continue
            value = _parsed(row.get(column))
            is_list = isinstance(value, list)
            name = field.removesuffix("_ids") + "s" * (field == "document_ids" and is_list)
            store = self.documents(where, column)
            if is_list:
                texts[name] = [_text(store, where, column, item) for item in value]
            else:  # that of an empty cell is missed later, unless it may be empty
                texts[name] = None if value is None else _text(store, where, column, value)
        self._judge(where, row, ids, texts)
        return texts

    def _judge(self, where: str, row: Mapping[str, Any], ids: Ids, texts: dict[str, Any]) -> None:
        """Add the grades of a list that has scores and no labels, if the data judge its query; 0 for documents that
        are not judged."""
        fields = {field_of_column(name) for name in texts}
        if "documents" not in texts or "label" in fields or not {"query_id", "document_ids"} <= ids.columns.keys():
            return
        grades = self.judged().get(id_of(where, ids.columns["query_id"], row[ids.columns["query_id"]]))
        if grades is not None:
            column = ids.columns["document_ids"]
            texts["labels"] = [grades.get(id_of(where, column, item), 0) for item in _parsed(row[column])]


def _field_of(name: str) -> str | None:
    plain = plain_name(name)
    return next((field for field, names in COLUMNS.items() if names.fullmatch(plain)), None)


def _parsed(value: Any) -> Any:
    """The ids of a cell: a list may be written as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _text(store: TextStore, where: str, column: str, value: Any) -> str:
    identifier = id_of(where, column, value)
    text = store.text(identifier)
    if text is None:
        option = "data.corpus_path" if store.what == "documents" else "data.queries_path"
        raise ValueError(
            f"{where}: {column!r} names {identifier[:40]!r}, which is no id of {store.names}: add its text there, "
            f"leave the row out, or name another file ({option}=FILE)"
        )
    return text
