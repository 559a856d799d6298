"""Read the rows of all splits of a data file: the files, the texts of ids, and what is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from data.collection import SPLITS
from data.formats.by_id import COLUMNS, ById, Ids
from data.formats.columns import ListRecord
from data.formats.file_format import FileFormat, Record, names_below
from data.formats.hub import HubSource, find_hub_splits, find_hub_texts, is_hub_id
from data.formats.layouts import NAMES
from data.formats.records import read_records
from data.formats.skipped import SkippedRows, readable
from data.formats.sources import RowSource, Sources, find_sources, texts_beside
from data.formats.text_store import TextStore, id_of

logger = logging.getLogger(__name__)

TEXT_PATHS = {"documents": "corpus_path", "queries": "queries_path"}


@dataclass(frozen=True)
class Paths:
    """The places of the data, as the options name them."""

    path: str
    dev_path: str | None = None
    test_path: str | None = None
    corpus_path: str | None = None
    queries_path: str | None = None
    subset: str | None = None
    hub_split: str | None = None

    @property
    def on_hub(self) -> bool:
        return self.subset is not None or self.hub_split is not None or is_hub_id(self.path)


@dataclass
class FileReader:
    """Reads the rows of all splits. `columns` and `ignored` say what columns are, `skipped` notes the rows that are
    left out."""

    paths: Paths
    formats: Sequence[FileFormat]
    columns: Mapping[str, str] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    skipped: SkippedRows = field(default_factory=SkippedRows)

    @cached_property
    def sources(self) -> Sources:
        """The files of the rows. Those of dev_path and test_path are read instead of a folder's or the hub's."""
        if self.paths.on_hub:
            hub, line = find_hub_splits(self.paths.path, self.paths.subset, self.paths.hub_split)
            found = Sources(hub, {}, (line,))
        else:
            found = find_sources("data.path", self.paths.path, self.formats)
        splits, texts = dict(found.splits), {role: list(files) for role, files in found.texts.items()}
        for split in ("dev", "test"):
            path = getattr(self.paths, f"{split}_path")
            if path is not None:
                own = find_sources(f"data.{split}_path", path, self.formats)
                splits[split] = [source for rows in own.splits.values() for source in rows]
                for role, files in own.texts.items():
                    known = {source.name for source in texts.setdefault(role, [])}
                    texts[role] += [source for source in files if source.name not in known]
        return Sources(splits, texts, found.notes)

    @property
    def splits(self) -> list[str]:
        """The splits that have rows of their own."""
        return [split for split in SPLITS if split in self.sources.splits]

    def format_names(self, split: str = "train") -> list[str]:
        """The well-known layouts of the files of a split, by the columns of their first rows."""
        names = (source.layout for source in self.sources.splits.get(split, ()))
        return list(dict.fromkeys(name for name in names if name))

    def announce(self) -> None:
        """Say which files were taken for what, if that was not obvious."""
        for note in self.sources.notes:
            logger.warning("data.path=%s: %s", self.paths.path, note)

    def records(self, split: str) -> Iterator[ListRecord]:
        """Read the lists of one split."""
        others = (row for other in self.splits if other != split for row in self._rows(other, SkippedRows("skip")))
        columns = {field: column for field, column in self.columns.items() if field in NAMES}
        yield from read_records(self._rows(split, self.skipped), columns, self.ignored, others, self.skipped)

    def _rows(self, split: str, skipped: SkippedRows) -> Iterator[Record]:
        """The rows of one split, with the texts of ids; none if it has no files of its own."""
        by_id = ById(self.columns, self.ignored, self._store("documents"), self._store("queries"), self._judged(split))
        for source in self.sources.splits.get(split, ()):
            yield from by_id.with_texts(iter(source), skipped)

    def _store(self, role: str) -> Callable[[str, str], TextStore]:
        def find(where: str, column: str) -> TextStore:
            if role not in self._stores:
                self._stores[role] = self._find_store(role, where, column)
            return self._stores[role]

        return find

    @cached_property
    def _stores(self) -> dict[str, TextStore]:
        return {}

    def _find_store(self, role: str, where: str, column: str) -> TextStore:
        found = self.text_sources(role)
        option = TEXT_PATHS[role]
        if not found:
            name = "corpus" if role == "documents" else "queries"
            raise ValueError(
                f"{where}: {column!r} names {role} by id, and no file beside it holds their texts: put {name}.jsonl "
                f'({{"_id": ..., "text": ...}} a line) there, or name one (data.{option}=FILE)'
            )
        names = ", ".join(source.name for source in found[:3]) + ", ..." * (len(found) > 3)
        logger.warning("%s: the texts of %r are in %s", where.rpartition(":")[0], column, names)
        return TextStore(role, found, names, self.skipped)

    def text_sources(self, role: str) -> Sequence[RowSource]:
        """The files with the texts of ids: those that are named, those of the folder of the rows, those beside it."""
        path = getattr(self.paths, TEXT_PATHS[role])
        if path is not None:
            own = find_sources(f"data.{TEXT_PATHS[role]}", path, self.formats)
            return [s for files in (*own.splits.values(), *own.texts.values()) for s in files]
        if self.sources.texts.get(role):
            return self.sources.texts[role]
        if self.paths.on_hub:
            return find_hub_texts(self.paths.path, role)
        return texts_beside(self._files, self.formats, role)

    @property
    def _files(self) -> list[Path]:
        rows = [source for files in self.sources.splits.values() for source in files]
        return [source.file for source in rows if source.file is not None]

    def _judged(self, split: str) -> Callable[[], Mapping[str, Mapping[str, float]]]:
        """The grades of the judgements (rows of query, document and label, all by id) among the files of a split."""

        def read() -> Mapping[str, Mapping[str, float]]:
            if split not in self._grades:
                self._grades[split] = self._read_grades(split)
            return self._grades[split]

        return read

    @cached_property
    def _grades(self) -> dict[str, Mapping[str, Mapping[str, float]]]:
        return {}

    def _read_grades(self, split: str) -> Mapping[str, Mapping[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for source in self.sources.splits.get(split, ()):
            first = source.first or {}
            ids = Ids.of(first, self.columns, self.ignored).columns
            label = next((name for name in ("label", "score", "relevance") if name in first), None)
            if set(ids) != {"query_id", "document_ids"} or label is None:
                continue
            if isinstance(first[ids["document_ids"]], list):
                continue
            for _, row in readable(iter(source), SkippedRows("skip")):  # a wrong row is noted when it is read as a list
                with suppress(ValueError, TypeError, KeyError):
                    query, document = (id_of("", name, row[ids[name]]) for name in ("query_id", "document_ids"))
                    found.setdefault(query, {})[document] = float(row[label])
        return found

    def places(self) -> dict[str, dict[str, Path]]:
        """The files that each option names: option -> name of each file below that place -> file."""
        options = ("path", "dev_path", "test_path", "corpus_path", "queries_path")
        named = {option: path for option in options if (path := getattr(self.paths, option)) is not None}
        if self.paths.on_hub:
            named.pop("path")
        places = {}
        for option, path in named.items():
            own = find_sources(f"data.{option}", path, self.formats)
            sources = [source for files in (*own.splits.values(), *own.texts.values()) for source in files]
            places[option] = names_below([source.file for source in sources if source.file is not None], path)
        return places | {key: files for key, files in self._beside().items() if key not in places}

    def hub_sources(self) -> list[HubSource]:
        """What is read of the hub: rows, and the texts that these name by id."""
        if not self.paths.on_hub:
            return []
        rows = [source for found in self.sources.splits.values() for source in found]
        texts = [source for role in self._roles for source in self.text_sources(role)]
        return [source for source in (*rows, *texts) if isinstance(source, HubSource)]

    @cached_property
    def _roles(self) -> list[str]:
        """What rows name by id: queries, documents, both or neither."""
        firsts = [source.first for files in self.sources.splits.values() for source in files]
        named = {name for row in firsts if row is not None for name in Ids.of(row, self.columns, self.ignored).columns}
        return sorted({"queries" if name == "query_id" else "documents" for name in named})

    def _beside(self) -> dict[str, dict[str, Path]]:
        """The files beside those of the rows whose texts these name by id."""
        files = {role: [s.file for s in self.text_sources(role) if s.file is not None] for role in self._roles}
        return {TEXT_PATHS[role]: {file.name: file for file in found} for role, found in files.items() if found}


def id_fields() -> tuple[str, ...]:
    """The fields of ids that data.columns may name."""
    return tuple(COLUMNS)
