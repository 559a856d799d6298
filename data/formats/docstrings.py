"""The default collection: docstrings of the installed libraries, as questions to be answered by the rest of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from data.cache import cached
from data.collection import SPLITS, Collection, Judgements, content_hash, normalised
from data.formats.beir import COLUMNS, read_folder
from data.formats.docstring_pairs import DocstringPair, as_query, package_root, read_pairs, source_files
from data.hashing import stable_hash
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
)  # every installation has them; transformers' many models repeat one another
OWN_GRADE, RELATIVE_GRADE = 2, 1
OF_THE_COLLECTION = (
    "dev_fraction",
    "packages",
    "max_words",
    "test_fraction",
    "max_train_queries",
    "max_dev_queries",
    "max_test_queries",
)  # the options that it is made of
MAX_RELATIVES = 2  # per query
MAX_NAMESAKES = 8  # a name that more functions of a library share ("forward", "fit") says nothing


@dataclass(frozen=True, kw_only=True)
class DocstringsConfig(SourceOptions):
    """Docstrings of installed packages as a collection.

    A query is the summary sentence of a public function's docstring, or a question made of it. A document is a
    function's name and the rest of its docstring: grade 2 for the own function, grade 1 for a namesake in the same
    library. The queries of a module belong to one split. The collection is built from the sources (nothing is
    imported) once per set of installed files.
    """

    packages: tuple[str, ...] = PACKAGES  # names of importable packages
    max_words: int = 40  # of a document, after its name
    test_fraction: float = 0.15  # share of the modules
    max_train_queries: int = 4000
    max_dev_queries: int = 150
    max_test_queries: int = 300

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
        """Make the collection as a BEIR folder."""
        pairs = distinct(pair for package in self.packages for pair in read_pairs(package, self.max_words))
        qrels = self._judgements(pairs)
        if not all(qrels.values()):
            raise ValueError(f"data.packages={list(self.packages)}: too few docstrings for three splits; name more")
        write_folder(folder, pairs, qrels)

    def _key(self) -> str:
        """A hash of all that the collection is made of: options, sources, this code."""
        sources = []
        for package in self.packages:
            root = package_root(package)
            for path in source_files(package):
                status = path.stat()
                sources.append([package, str(path.relative_to(root)), status.st_size, status.st_mtime_ns])
        options = {name: value for name, value in asdict(self).items() if name in OF_THE_COLLECTION}
        code = [Path(__file__).with_name(name).read_text() for name in ("docstrings.py", "docstring_pairs.py")]
        return content_hash(options, sources, code)[:16]

    def _judgements(self, pairs: list[DocstringPair]) -> dict[str, Judgements]:
        limits = {"train": self.max_train_queries, "dev": self.max_dev_queries, "test": self.max_test_queries}
        members: dict[str, list[DocstringPair]] = {split: [] for split in SPLITS}
        for pair in pairs:
            members[self._split_of(pair.module)].append(pair)
        return {split: judge(choose(members[split], limits[split]), members[split]) for split in SPLITS}

    def _split_of(self, module: str) -> str:
        share = stable_hash("module", module) / 2**63
        if share < self.test_fraction:
            return "test"
        return "dev" if share < self.test_fraction + self.dev_fraction else "train"


def distinct(pairs: Iterable[DocstringPair]) -> list[DocstringPair]:
    """The first pair of each identifier, query and rest."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for pair in pairs:
        query, rest = normalised(as_query(pair.sentence)), normalised(pair.rest)
        keys = {("identifier", pair.identifier), ("query", query), ("rest", rest)}
        if not keys & seen:
            kept.append(pair)
        seen |= keys
    return kept


def choose(pairs: list[DocstringPair], limit: int) -> list[DocstringPair]:
    """The pairs, at most `limit` of them, chosen by hash, in their order."""
    chosen = set(sorted((pair.identifier for pair in pairs), key=lambda name: stable_hash("query", name))[:limit])
    return [pair for pair in pairs if pair.identifier in chosen]


def judge(queries: list[DocstringPair], members: list[DocstringPair]) -> Judgements:
    """Grade 2 for the own document, 1 for the nearest namesakes of the library in the same split."""
    namesakes: dict[tuple[str, str], list[DocstringPair]] = defaultdict(list)
    for pair in members:
        namesakes[pair.package, pair.name].append(pair)
    qrels = {}
    for pair in queries:
        own = pair.identifier
        others = [other.identifier for other in namesakes[pair.package, pair.name] if other != pair]
        nearest = sorted(others, key=lambda other: (-_shared_parts(own, other), other))
        relatives = nearest[:MAX_RELATIVES] if len(others) < MAX_NAMESAKES else []
        qrels[own] = {own: OWN_GRADE} | dict.fromkeys(relatives, RELATIVE_GRADE)
    return qrels


def _shared_parts(first: str, second: str) -> int:
    """How many leading parts two dotted names share."""
    pairs = zip(first.split("."), second.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda parts: parts[0] == parts[1], pairs))


def write_folder(folder: Path, pairs: list[DocstringPair], qrels: dict[str, Judgements]) -> None:
    """BEIR's layout; the query made of a pair has the pair's identifier."""
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
