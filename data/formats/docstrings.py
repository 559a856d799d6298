"""The default collection: docstrings of installed libraries. The query is the summary, the document is the rest."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path

from data.cache import cached
from data.collection import SPLITS, Collection, Judgements, content_hash
from data.formats.beir import read_folder
from data.formats.docstring_pairs import DocstringPair, as_query, package_root, read_pairs, source_files, words_of
from data.formats.qrels import COLUMNS
from data.hashing import stable_hash
from data.sampling.list_options import ListOptions
from data.source import SourceOptions

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "matplotlib",
    "pandas",
    "networkx",
    "datasets",
    "huggingface_hub",
    "accelerate",
    "peft",
    "fsspec",
)  # every installation has these; transformers is left out, because its models repeat each other's docstrings
OWN_GRADE, SAME_NAME_GRADE = 2, 1
COLLECTION_OPTIONS = (
    "dev_fraction",
    "packages",
    "max_words",
    "test_fraction",
    "max_train_queries",
    "max_dev_queries",
    "max_test_queries",
)  # the options that determine the collection
MAX_RELATED = 2  # functions of the same name that are relevant to a query
MAX_SAME_NAME = 8  # if more functions of a library share a name ("forward", "fit"), none of them counts as relevant


@dataclass(frozen=True, kw_only=True)
class DocstringsConfig(SourceOptions):
    """Docstrings of installed packages as a collection.

    A query is the summary sentence of a public function's docstring, or a question made of it. A document is a
    function's name and the rest of its docstring. It has grade 2 if it is the query's own function, grade 1 if it is a
    function of the same name in the same library. The queries of a module belong to one split. The collection is built
    from the sources (nothing is imported) once per set of installed files.
    """

    packages: tuple[str, ...] = PACKAGES  # names of importable packages
    max_words: int = 40  # of a document, after its name
    test_fraction: float = 0.15  # share of the modules
    max_train_queries: int = 4000
    max_dev_queries: int = 150
    max_test_queries: int = 300
    lists: ListOptions = field(default_factory=lambda: ListOptions(positives=None))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_fraction < 1 - self.dev_fraction:
            raise ValueError(f"data.test_fraction={self.test_fraction} must be above 0 and below 1 - data.dev_fraction")
        if not self.packages:
            raise ValueError("data.packages is empty; name installed packages, such as numpy")

    def build(self) -> Collection:
        folder = cached(self.cache / f"docstrings-{self._key()}", self.write)
        return self.assemble("docstrings", read_folder(folder))

    def write(self, folder: Path) -> None:
        """Write the collection as a BEIR folder."""
        pairs = without_duplicates(pair for package in self.packages for pair in read_pairs(package, self.max_words))
        qrels = self._judgements(pairs)
        if not all(qrels.values()):
            raise ValueError(f"data.packages={list(self.packages)}: too few docstrings for three splits; name more")
        write_folder(folder, pairs, qrels)

    def _key(self) -> str:
        """A hash of all that determines the collection: options, sources, this code."""
        sources = []
        for package in self.packages:
            root = package_root(package)
            for path in source_files(package):
                status = path.stat()
                sources.append([package, str(path.relative_to(root)), status.st_size, status.st_mtime_ns])
        options = {name: value for name, value in asdict(self).items() if name in COLLECTION_OPTIONS}
        code = [Path(__file__).with_name(name).read_text() for name in ("docstrings.py", "docstring_pairs.py")]
        return content_hash(options, sources, code)[:16]

    def _judgements(self, pairs: list[DocstringPair]) -> dict[str, Judgements]:
        limits = {"train": self.max_train_queries, "dev": self.max_dev_queries, "test": self.max_test_queries}
        members: dict[str, list[DocstringPair]] = {split: [] for split in SPLITS}
        for pair in pairs:
            members[self._split_of(pair.module)].append(pair)
        return {split: make_judgements(sample_pairs(members[split], limits[split]), members[split]) for split in SPLITS}

    def _split_of(self, module: str) -> str:
        share = stable_hash("module", module) / 2**63
        if share < self.test_fraction:
            return "test"
        return "dev" if share < self.test_fraction + self.dev_fraction else "train"


def without_duplicates(pairs: Iterable[DocstringPair]) -> list[DocstringPair]:
    """The pairs without those whose identifier, query or rest has occurred before."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for pair in pairs:
        query, rest = words_of(as_query(pair.sentence)), words_of(pair.rest)
        keys = {("identifier", pair.identifier), ("query", query), ("rest", rest)}
        if not keys & seen:
            kept.append(pair)
        seen |= keys
    return kept


def sample_pairs(pairs: list[DocstringPair], limit: int) -> list[DocstringPair]:
    """Choose at most `limit` pairs by hash; they keep their order."""
    chosen = set(sorted((pair.identifier for pair in pairs), key=lambda name: stable_hash("query", name))[:limit])
    return [pair for pair in pairs if pair.identifier in chosen]


def make_judgements(queries: list[DocstringPair], members: list[DocstringPair]) -> Judgements:
    """Give grade 2 to a query's own document, and 1 to the nearest functions of the same name in the library and
    split."""
    same_name: dict[tuple[str, str], list[DocstringPair]] = defaultdict(list)
    for pair in members:
        same_name[pair.package, pair.name].append(pair)
    qrels = {}
    for pair in queries:
        own = pair.identifier
        others = [other.identifier for other in same_name[pair.package, pair.name] if other != pair]
        nearest = sorted(others, key=lambda other: (-_shared_parts(own, other), other))
        related = nearest[:MAX_RELATED] if len(others) < MAX_SAME_NAME else []
        qrels[own] = {own: OWN_GRADE} | dict.fromkeys(related, SAME_NAME_GRADE)
    return qrels


def _shared_parts(first: str, second: str) -> int:
    """The number of leading parts that two dotted names share."""
    pairs = zip(first.split("."), second.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda parts: parts[0] == parts[1], pairs))


def write_folder(folder: Path, pairs: list[DocstringPair], qrels: dict[str, Judgements]) -> None:
    """Write BEIR's layout. A query has the identifier of its pair."""
    (folder / "qrels").mkdir(parents=True)
    sentences = {pair.identifier: pair.sentence for pair in pairs}
    documents = ({"_id": pair.identifier, "title": pair.qualified_name, "text": pair.rest} for pair in pairs)
    queries = ({"_id": name, "text": as_query(sentences[name])} for split in qrels.values() for name in split)
    for name, records in (("corpus", documents), ("queries", queries)):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    for split, judged in qrels.items():
        rows = [f"{query}\t{name}\t{grade}\n" for query, grades in judged.items() for name, grade in grades.items()]
        header = "\t".join(COLUMNS) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(header + "".join(rows), encoding="utf-8")
