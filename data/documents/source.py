"""A folder of documents as a collection: chunks, and pairs that are made from the documents alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import data
from data.cache import cached
from data.candidates import NoCandidates
from data.collection import SPLITS, Collection, content_hash
from data.documents.chunks import ChunkOptions
from data.documents.files import MEBIBYTE, DocumentFile, FolderWalk
from data.documents.held_out import PairLedger, SplitOptions
from data.documents.needed import PACKAGES
from data.documents.pairs import PairMaker, PairOptions
from data.documents.readers import DocumentReader
from data.documents.write import CORPUS, MADE, NEVER, QUERIES, FolderWriter, lines_of
from data.formats.beir import Corpus, ReadCorpus, documents_in_memory, read_folder, stored_documents
from data.formats.jsonl import read_json_lines
from data.formats.skipped import SkippedRows, check_on_error
from data.hashing import file_digest
from data.inspection.near_duplicates import NearDuplicates
from data.option_names import in_node
from data.source import SourceOptions, Texts
from data.store.build import stored_if_large

logger = logging.getLogger(__name__)

WRITTEN_BY = (  # the options that chunks and pairs depend on
    *("suffixes", "max_file_mb", "on_error", "chunks", "near_duplicate", "pairs", "dev_fraction", "test_fraction"),
    *("max_train_queries", "max_dev_queries", "max_test_queries", "seed"),
)
NO_KIND = "data.pairs: all kinds are off, so there are no queries: set one, such as data.pairs.title=true"


@dataclass(frozen=True, kw_only=True)
class DocumentsConfig(SourceOptions):
    """The text, Markdown, HTML, PDF, source code and tables of a folder and of the folders in it, cut into chunks.

    Queries are made from the documents (`data.documents.pairs`). The documents of test and dev are held out whole, and
    searched among the chunks of all. Without a kind of pair it is a corpus alone. What cannot be read is left out and
    noted in the collection's `skipped`, or with on_error="stop" stops the reading.
    """

    path: str
    suffixes: tuple[str, ...] = ()  # of the files that are read; none: of all kinds that are known
    max_file_mb: float = 50.0  # MiB of a file that is read
    on_error: str = "skip"
    chunks: ChunkOptions = field(default_factory=ChunkOptions)
    near_duplicate: float | None = 0.8  # Jaccard similarity from which a chunk is dropped; None: equal texts alone
    pairs: PairOptions = field(default_factory=PairOptions)
    test_fraction: float = 0.1  # share of the documents
    max_train_queries: int | None = None
    max_dev_queries: int | None = 500
    max_test_queries: int | None = 1000
    seed: int = 42  # of the split and of random spans

    def __post_init__(self) -> None:
        super().__post_init__()
        check_on_error(self.on_error)
        if not 0 < self.test_fraction < 1 - self.dev_fraction:
            raise ValueError(f"data.test_fraction={self.test_fraction} must be above 0 and below 1 - data.dev_fraction")
        if not self.max_file_mb > 0:
            raise ValueError(f"data.max_file_mb={self.max_file_mb} must be above 0")
        if self.near_duplicate is not None and not 0 < self.near_duplicate <= 1:
            raise ValueError(f"data.near_duplicate={self.near_duplicate} must be above 0 and at most 1, or null")
        for split in SPLITS:
            if (limit := getattr(self, f"max_{split}_queries")) is not None and limit < 1:
                raise ValueError(f"data.max_{split}_queries={limit} must be at least 1, or null")

    def for_encoding(self) -> DocumentsConfig:
        """The whole texts of the chunks: without pairs, nothing is taken out of them."""
        off = dict.fromkeys(self.pairs.kinds, False)
        return replace(self, pairs=replace(self.pairs, **off))

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The files that are read, by their names below the path."""
        files = self._wanted(SkippedRows("skip"))
        return {"path": {"" if file.path == self._root else file.name: file.path for file in files}}

    def build(self) -> Collection:
        folder = self._folder
        files = [CORPUS, QUERIES, *(f"qrels/{split}.tsv" for split in SPLITS)]
        written = {name: folder / name for name in files if (folder / name).is_file()}
        for line in lines_of(self.stored_name, self._made["made"], self._made["skipped"], folder):
            logger.warning("%s", in_node(line))
        read = partial(self._read, documents_in_memory)
        return replace(stored_if_large(self, {"path": written}, read), skipped=self._made["skipped"])

    def build_stored(self, folder: Path) -> Collection:
        return self._read(partial(stored_documents, self.cache))

    @property
    def stored_name(self) -> str:
        return self._root.resolve().name or "documents"

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser()

    def _read(self, read_corpus: ReadCorpus) -> Collection:
        folder, skipped = self._folder, SkippedRows()
        if self.pairs.kinds:
            exclude = NEVER if len((folder / NEVER).read_text().splitlines()) > 1 else None
            texts = read_folder(folder, exclude, skipped, read_corpus)
            return replace(self.assemble(self.stored_name, texts), made=self._made["made"])
        file = folder / CORPUS
        corpus = Corpus(self.stored_name, str(file), partial(read_json_lines, file), partial(file_digest, file))
        unasked = replace(self, candidates=NoCandidates())
        collection = unasked.assemble(self.stored_name, Texts(read_corpus(corpus, skipped), {}, {}))
        return replace(collection, missing=dict.fromkeys(SPLITS, in_node(NO_KIND)), made=self._made["made"])

    @cached_property
    def _made(self) -> dict[str, Any]:
        made: dict[str, Any] = json.loads((self._folder / MADE).read_text())
        return made

    def check_place(self) -> None:
        if not self._root.exists():
            raise FileNotFoundError(f"data.path={self.path}: no such folder or file")

    @cached_property
    def _folder(self) -> Path:
        """The folder of the cache with the chunks and pairs, which is made if it is not there."""
        self.check_place()
        return cached(self.cache / f"documents-{self._key()}", self._write)

    def _write(self, folder: Path) -> None:
        skipped = SkippedRows(self.on_error)
        near = None if self.near_duplicate is None else NearDuplicates(self.near_duplicate)
        writer = FolderWriter(
            FolderWalk(self._root, skipped, self._max_bytes),
            DocumentReader(self.suffixes, skipped),
            skipped,
            self.chunks,
            PairMaker(self.pairs, self.seed),
            PairLedger(self.pairs.kinds, self.seed),
            near,
            len(self._wanted(SkippedRows("skip"))),
        )
        limits = {split: getattr(self, f"max_{split}_queries") for split in SPLITS}
        try:
            writer.write(folder, SplitOptions(self.dev_fraction, self.test_fraction, limits))
        except ValueError as error:
            raise ValueError(in_node(f"data.path={self.path}: {error}")) from None

    @property
    def _max_bytes(self) -> int:
        return round(self.max_file_mb * MEBIBYTE)

    def _wanted(self, skipped: SkippedRows) -> list[DocumentFile]:
        """The files whose names say that they are read."""
        reader = DocumentReader(self.suffixes, skipped)
        return [
            file for file in FolderWalk(self._root, skipped, self._max_bytes).files() if reader.is_wanted(file.path)
        ]

    def _key(self) -> str:
        """A hash of all that the chunks and pairs depend on: options, the content of the files, code, libraries."""
        skipped = SkippedRows("skip")
        files = [[file.name, file_digest(file.path)] for file in self._wanted(skipped)]
        options = {name: value for name, value in asdict(self).items() if name in WRITTEN_BY}
        return content_hash(options, [str(self._root)], files, skipped.rows, _code(), _versions())[:16]


def _code() -> list[str]:
    """The code that documents go through: readers of files and tables, languages, near-duplicates."""
    package = Path(data.__path__[0])
    folders = ("documents", "formats", "inspection")
    files = [*package.glob("*.py"), *(file for name in folders for file in (package / name).glob("*.py"))]
    return [file.read_text() for file in sorted(files)]


def _versions() -> list[str]:
    """The versions of the libraries that read documents; empty for one that is not installed."""
    found = []
    for package in PACKAGES.values():
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    return found
