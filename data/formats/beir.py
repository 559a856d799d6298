"""Collections in BEIR's layout: a folder, or a data set of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data.cache import cached, entry_of
from data.collection import Collection, content_hash
from data.formats.file_format import Record
from data.formats.hub import is_hub_id
from data.formats.jsonl import check_column, field_of, read_json_lines
from data.formats.qrels import COLUMNS, SPLIT_NAMES, Row, find_file, find_qrels, listing, read_qrels, read_tsv
from data.formats.row_error import RowError
from data.formats.skipped import SkippedRows, check_on_error, readable
from data.hashing import file_digest, text_hash
from data.progress import show_progress
from data.source import SourceOptions, Texts
from data.store.build import STORED_FROM_ROWS, open_stored, stored_if_large
from data.store.texts import Entry, StoredTexts, write_rows

CODE_OF_DOCUMENTS = (
    *("formats/beir.py", "formats/jsonl.py", "formats/text_file.py", "formats/skipped.py", "store/texts.py"),
)
SKIPPED = "skipped.json"  # the rows of the corpus that stored documents lack


def check_folder_or_hub_id(path: str) -> None:
    """Raise FileNotFoundError if `data.path` is neither a folder nor the form of a hub id."""
    if not Path(path).expanduser().is_dir() and not is_hub_id(path):
        raise FileNotFoundError(f"data.path={path}: no such folder, and no hub id (owner/name) either")


@dataclass(frozen=True, kw_only=True)
class BEIRConfig(SourceOptions):
    """A folder with `corpus.jsonl {_id, title, text}`, `queries.jsonl {_id, text}` and `qrels/{train,dev,test}.tsv`
    (see `read_tsv`; validation.tsv is dev), each also .gz, or a hub id (see `read_hub`). Without a dev split,
    `dev_fraction` of the training queries, chosen by a hash of their ids, become it.

    A row that cannot be read stops the reading, or with on_error="skip" is left out and noted in the collection's
    `skipped`, as are judgements of unknown queries or documents.
    """

    path: str
    exclude: str | None = None  # a qrels file in the folder (qrels/source_docs.tsv): its pairs are never negatives
    on_error: str = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_on_error(self.on_error)

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The files of a local folder; none of a data set of the hub."""
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            return {}
        qrels = folder / "qrels"
        tables = sorted(file for end in ("", ".gz") for file in qrels.glob(f"*.tsv{end}") if file.is_file())
        files = [find_file(folder, "corpus.jsonl"), find_file(folder, "queries.jsonl"), *tables]
        found = {"path": {str(file.relative_to(folder)).removesuffix(".gz"): file for file in files}}
        return found if self.exclude is None else {**found, "exclude": {"": folder / self.exclude}}

    def check_place(self) -> None:
        check_folder_or_hub_id(self.path)

    def build(self) -> Collection:
        self.check_place()
        if Path(self.path).expanduser().is_dir():
            return stored_if_large(self, self.places(), self._read)
        if self.exclude is not None:
            raise ValueError(f"data.exclude={self.exclude} needs a local folder, but data.path={self.path} is a hub id")
        hub = HubParts.load(self.path)
        if len(hub.corpus) >= STORED_FROM_ROWS:
            return open_stored(self, {"path": hub.fingerprints})
        return self._assembled(self.path, partial(read_hub, hub))

    def _read(self) -> Collection:
        folder = Path(self.path).expanduser()
        return self._assembled(folder.resolve().name, partial(read_folder, folder, self.exclude))

    def _assembled(self, name: str, read: Callable[[SkippedRows], Texts]) -> Collection:
        """The collection of the texts that are read. The rows that are left out are said and kept."""
        skipped = SkippedRows(self.on_error)
        texts = read(skipped)
        skipped.announce(name)
        return replace(self.assemble(name, texts), skipped=tuple(skipped.rows))

    @property
    def stored_name(self) -> str:
        return Path(self.path).expanduser().resolve().name

    def build_stored(self, folder: Path) -> Collection:
        place = Path(self.path).expanduser()
        store = partial(stored_documents, self.cache)
        if not place.is_dir():
            return self._assembled(self.path, partial(read_hub, HubParts.load(self.path), read_corpus=store))
        return self._assembled(place.resolve().name, partial(read_folder, place, self.exclude, read_corpus=store))

    def for_evaluation(self, split: str) -> BEIRConfig:
        return replace(self, dev_fraction=0.0) if split == "train" else self


@dataclass(frozen=True)
class Corpus:
    """The rows of the documents, and what identifies their content: `digest` is computed if it is needed."""

    name: str
    place: str  # begins the place of a row
    rows: Callable[[], Iterator[Record]]
    digest: Callable[[], str]


ReadCorpus = Callable[[Corpus, SkippedRows], Mapping[str, str]]  # to a mapping {id: title + " " + text}


def read_folder(
    folder: Path,
    exclude: str | None = None,
    skipped: SkippedRows | None = None,
    read_corpus: ReadCorpus | None = None,
) -> Texts:
    """Read all splits of a local BEIR folder. Errors name file, line and key."""
    skipped = skipped or SkippedRows()
    file = find_file(folder, "corpus.jsonl")
    corpus = Corpus(file.resolve().parent.name, str(file), partial(read_json_lines, file), partial(file_digest, file))
    documents = (read_corpus or documents_in_memory)(corpus, skipped)
    queries = read_queries(read_json_lines(find_file(folder, "queries.jsonl")), skipped)
    paths = find_qrels(folder / "qrels", None if exclude is None else folder / exclude)
    qrels = {split: read_qrels(str(path), read_tsv(path), documents, queries, skipped) for split, path in paths.items()}
    if exclude is None:
        return Texts(documents, queries, qrels)
    path = folder / exclude
    if not path.is_file():
        raise FileNotFoundError(f"data.exclude={exclude}: no such file in {folder} ({listing(path.parent)})")
    pairs = read_qrels(str(path), read_tsv(path), documents, queries, skipped)
    return Texts(documents, queries, qrels, {query: set(judged) for query, judged in pairs.items()})


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

    def rows(self) -> Iterator[Record]:
        """The rows of the corpus."""
        return ((f"{self.name} corpus:{number}", row) for number, row in enumerate(self.corpus, start=1))


def read_hub(hub: HubParts, skipped: SkippedRows, read_corpus: ReadCorpus | None = None) -> Texts:
    """Read a collection of the hub."""
    name = hub.name
    corpus = Corpus(name.replace("/", "-"), name, hub.rows, lambda: hub.corpus._fingerprint)
    documents = (read_corpus or documents_in_memory)(corpus, skipped)
    rows = ((f"{name} queries:{number}", row) for number, row in enumerate(hub.queries, start=1))
    queries = read_queries(rows, skipped)
    names = {alias: split for split, aliases in SPLIT_NAMES.items() for alias in aliases}
    qrels = {}
    for split, judged in hub.judgements.items():
        where = f"{name} qrels {split}"
        pairs = map(judgement_of, ((f"{where}:{number}", row) for number, row in enumerate(judged, start=1)))
        qrels[names.get(split, split)] = read_qrels(where, pairs, documents, queries, skipped)
    return Texts(documents, queries, qrels)


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


def documents_in_memory(corpus: Corpus, skipped: SkippedRows) -> dict[str, str]:
    return read_documents(corpus.rows(), skipped)


def read_documents(records: Iterable[Record], skipped: SkippedRows | None = None) -> dict[str, str]:
    """The documents {id: title + " " + text}."""
    return _by_id(records, document_of, skipped or SkippedRows())


def document_of(where: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """The id of a document and its title and text."""
    return _identifier(where, record), _joined(where, record, field_of(where, record, "text"))


def read_queries(records: Iterable[Record], skipped: SkippedRows | None = None) -> dict[str, str]:
    """The queries {id: text}."""
    return _by_id(records, _query_of, skipped or SkippedRows())


def _query_of(where: str, record: Mapping[str, Any]) -> tuple[str, str]:
    return _identifier(where, record), field_of(where, record, "text")


Reader = Callable[[str, Mapping[str, Any]], tuple[str, str]]  # of the id and the text of a row


def _entries(records: Iterable[Record], read: Reader, skipped: SkippedRows) -> Iterator[Entry]:
    """The place, the id and the text of each row that has them."""
    for where, record in readable(iter(records), skipped):
        try:
            yield where, *read(where, record)
        except ValueError as error:
            skipped.leave_out(where, error)


def _by_id(records: Iterable[Record], read: Reader, skipped: SkippedRows) -> dict[str, str]:
    """The texts {id: text}. Raises ValueError if an id occurs twice, unless `skipped` notes the later row."""
    first: dict[str, str] = {}
    texts: dict[str, str] = {}
    for where, key, text in show_progress(_entries(records, read, skipped), "reading texts", unit="texts"):
        if key in first:
            error = ValueError(f"{where}: duplicate id {key!r} (first at {first[key]}); ids must be unique")
            skipped.leave_out(where, error)
            continue
        first[key], texts[key] = where, text
    return texts


def stored_documents(cache: Path, corpus: Corpus, skipped: SkippedRows) -> StoredTexts:
    """The documents in memory-mapped files of the cache, which also keep what was left out of them."""
    options = [skipped.on_error] if skipped.skips else []  # documents without rows are not those of another run
    key = content_hash([corpus.digest(), _code_of_documents(), *options])
    place = entry_of(cache / "texts", corpus.name, key)
    folder = cached(place, partial(_write, corpus, skipped.on_error), resumable=True)
    if skipped.skips:
        known = json.loads((folder / SKIPPED).read_text())
        skipped.rows += [
            {**row, "where": row["where"].replace(known["place"], corpus.place, 1)} for row in known["rows"]
        ]
    return StoredTexts(folder)


def _write(corpus: Corpus, on_error: str | None, folder: Path) -> None:
    """Write the documents. A build that goes on reads the first rows again, to know what is left out."""
    skipped = SkippedRows(on_error)

    def entries() -> Iterator[Entry]:
        read = _entries(corpus.rows(), document_of, skipped)
        return _distinct(read, skipped) if skipped.skips else read  # else the writer finds what occurs twice

    try:
        write_rows(folder, entries)
    except ValueError as error:
        raise skipped.named(error) from None
    if skipped.skips:
        (folder / SKIPPED).write_text(json.dumps({"place": corpus.place, "rows": skipped.rows}))


def _distinct(entries: Iterable[Entry], skipped: SkippedRows) -> Iterator[Entry]:
    """The entries whose id is new. Hashes of the ids need less memory than these."""
    seen: set[int] = set()
    for where, key, text in entries:
        if (value := text_hash(key)) in seen:
            skipped.leave_out(where, ValueError(f"{where}: duplicate id {key!r}; ids must be unique"))
            continue
        seen.add(value)
        yield where, key, text


def _code_of_documents() -> list[str]:
    """The code that stored documents depend on: after other changes they are still good."""
    package = Path(__file__).parents[1]
    return [(package / name).read_text() for name in CODE_OF_DOCUMENTS]


def _identifier(where: str, record: Mapping[str, object]) -> str:
    """The id. It is checked here, so that a run does not fail at its end, when it writes the rankings."""
    identifier = field_of(where, record, "_id")
    check_column(f"{where}: _id", identifier)
    return identifier


def _joined(where: str, record: Mapping[str, object], text: str) -> str:
    title = field_of(where, record, "title") if record.get("title") is not None else ""
    return f"{title} {text}".strip()


def judgement_of(record: Record) -> Row:
    """The judgement in a row with the columns query-id, corpus-id and, if not 1, score."""
    where, row = record
    try:
        query, document = (field_of(where, row, column, object) for column in COLUMNS[:2])
    except ValueError as error:
        raise RowError(where, str(error)) from None
    return where, str(query), str(document), row.get("score", 1)
