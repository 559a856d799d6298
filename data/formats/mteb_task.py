"""Tasks of the package mteb as collections: its retrieval and reranking tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.candidates import NOTHING, LeftOut, Queries
from data.collection import Candidates, Collection
from data.formats.beir import read_documents, read_queries
from data.formats.file_format import Record
from data.formats.qrels import Row, read_qrels
from data.formats.skipped import SkippedRows, check_on_error
from data.hashing import stable_hash
from data.source import SourceOptions, Texts

INSTALL = "pip install 'plackett[mteb]' (in a clone: pip install -c constraints.txt -e '.[mteb]')"
ONLY = "default"  # the subset of a task that has one


@dataclass(frozen=True, kw_only=True)
class MTEBConfig(SourceOptions):
    """A retrieval or reranking task of mteb by its name (SciFact), and its `subset` (a language), if it has several.
    The split that the task evaluates is test, whatever it is called there."""

    task: str
    subset: str | None = None
    on_error: str = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_on_error(self.on_error)

    def evaluated_sets(self) -> Mapping[str, MTEBConfig]:
        subsets = _subsets(get_task(self.task))
        if self.subset is not None or len(subsets) < 2:
            return {"": self}
        return {f"{self.task}-{subset}": replace(self, subset=subset) for subset in subsets}

    def build(self) -> Collection:
        return collection_of_task(get_task(self.task), self)


@dataclass(frozen=True)
class TaskCandidates:
    """The documents that a reranking task gives with each query, in an order by a hash: theirs may say what is
    relevant."""

    listed: Mapping[str, Sequence[str]]

    def build(
        self, documents: Mapping[str, str], queries: Queries, cache_dir: Any, left_out: LeftOut = NOTHING
    ) -> dict[str, Candidates]:
        def candidates_of(query: str) -> list[tuple[str, float]]:
            known = (d for d in self.listed.get(query, ()) if d in documents and d not in left_out.get(query, ()))
            return [(document, 0.0) for document in sorted(known, key=lambda d: stable_hash("place", query, d))]

        return {split: {query: candidates_of(query) for query in texts} for split, texts in queries.items()}


def get_task(name: str) -> Any:
    """The task of mteb of that name. Raises ValueError if there is none, or mteb is not installed."""
    try:
        import mteb
    except ModuleNotFoundError as error:
        raise ValueError(f"mteb:{name} is read by the package mteb, which is not installed: {INSTALL}") from error
    try:
        return mteb.get_task(name)
    except KeyError as error:
        raise ValueError(f"mteb:{name}: {str(error).strip(chr(39))}") from None


def collection_of_task(task: Any, options: MTEBConfig | None = None) -> Collection:
    """The collection of a retrieval or reranking task of mteb, an object (`mteb.get_task(NAME)`, or one of your own
    class). `options`: prompts, subset and first stage; default: those of a task without any.

    A document is its title and text, a query its text and instruction, as mteb joins them. Raises ValueError if the
    task is of another type, has no such subset, or cannot be loaded.
    """
    name = task.metadata.name
    options = options or MTEBConfig(task=name)
    if not hasattr(task, "convert_v1_dataset_format_to_v2"):
        raise ValueError(f"mteb:{name} is a task of type {task.metadata.type}: only retrieval and reranking are read")
    if getattr(task, "skip_first_result", False):
        raise ValueError(f"mteb:{name} does not count the first document of each ranking, which no metric here does")
    parts = _parts(task, options)
    skipped = SkippedRows(options.on_error)
    documents = read_documents(_rows(f"mteb:{name} corpus", parts["corpus"]), skipped)
    queries = read_queries(_rows(f"mteb:{name} queries", parts["queries"]), skipped)
    where = f"mteb:{name} relevant_docs"
    qrels = read_qrels(where, _judgements(where, parts["relevant_docs"]), documents, queries, skipped)
    listed = parts.get("top_ranked")
    if listed:
        options = replace(options, candidates=TaskCandidates(listed))
    skipped.announce(name)
    called = name if options.subset is None else f"{name}-{options.subset}"
    collection = options.assemble(called, Texts(documents, queries, {"test": qrels}))
    if listed:
        splits = {key: replace(split, ranked=False, listed=True) for key, split in collection.splits.items()}
        collection = replace(collection, splits=splits)
    return replace(collection, skipped=tuple(skipped.rows))


def _parts(task: Any, options: MTEBConfig) -> Mapping[str, Any]:
    """The parts of the split that is evaluated: corpus, queries, relevant_docs, top_ranked."""
    name = task.metadata.name
    try:
        task.load_data()
    except Exception as error:  # the hub's client raises many kinds: offline, gated, ...
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ValueError(f"mteb:{name} cannot be loaded ({reason})") from error
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    subsets = list(task.dataset)
    subset = options.subset or (ONLY if ONLY in subsets or len(subsets) != 1 else subsets[0])
    if subset not in subsets:
        raise ValueError(f"mteb:{name} has the subsets {', '.join(subsets)}: data.subset=NAME chooses one")
    splits = task.dataset[subset]
    parts: Mapping[str, Any] = splits["test"] if "test" in splits else splits[next(iter(task.eval_splits))]
    return parts


def _subsets(task: Any) -> Sequence[str]:
    return list(task.hf_subsets) if task.metadata.is_multilingual else [ONLY]


def _rows(where: str, table: Any) -> Iterator[Record]:
    for number, row in enumerate(table, start=1):
        place = f"{where}:{number}"
        if not isinstance(row.get("text"), str):
            raise ValueError(f"{place}: only texts are read, got {type(row.get('text')).__name__}")
        instruction = row.get("instruction")
        text = f"{row['text']} {instruction}" if instruction else row["text"]
        yield place, {"_id": row["id"], "title": row.get("title"), "text": text}


def _judgements(where: str, judged: Mapping[str, Mapping[str, int]]) -> Iterator[Row]:
    return (
        (where, query, document, grade) for query, of_query in judged.items() for document, grade in of_query.items()
    )
