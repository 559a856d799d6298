"""Write mined negatives in the shapes that trainers read: triplets, tuples, pairs, lists or a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from data.collection import Collection, Split
from data.formats.jsonl import check_column
from data.store.texts import ids_of, texts_of
from inference.mine_options import MineOptions
from inference.mining_audit import MinedQuery
from recipes.negatives.corpus import MiningCorpus
from recipes.negatives.rows import shortest, whole

JSONL = ".jsonl"
TAG = "mined"  # of a TREC run


@dataclass(frozen=True)
class Entry:
    """A document of a row: its row in the corpus, score and grade (0: a mined negative)."""

    row: int
    score: float
    grade: float = 0.0


@dataclass
class MinedRows:
    """Makes the rows of the output from what queries got. `left_out` counts tuples that are not full, and queries of a
    TREC run without a negative: these shapes cannot hold them."""

    collection: Collection
    split: Split
    corpus: MiningCorpus
    options: MineOptions
    left_out: int = 0
    ids: Sequence[str] = field(init=False)
    texts: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self.ids, self.texts = ids_of(self.corpus.documents), texts_of(self.corpus.documents)

    def rows(self, query: MinedQuery) -> Iterator[dict[str, Any]]:
        """The rows of one query, without those that its shape cannot hold."""
        positives, negatives = self._positives(query), self._negatives(query)
        if self.options.output == "run":
            yield self._list(query, self._ranked(query, positives, negatives), run=True)
        elif not negatives:
            return
        elif self.options.output == "triplet":
            yield from (self._tuple(query, positive, [n]) for positive in positives for n in negatives)
        elif self.options.output == "n_tuple":
            if len(negatives) < self.options.num_negatives:
                self.left_out += len(positives)
                return
            yield from (self._tuple(query, positive, negatives) for positive in positives)
        elif self.options.output == "labelled_pair":
            yield from (self._pair(query, entry) for entry in (*positives, *negatives))
        else:
            yield self._list(query, [*positives, *negatives])

    def _positives(self, query: MinedQuery) -> list[Entry]:
        judged = self.split.judgements.get(query.query_id, {})
        grades = [grade for grade in judged.values() if grade > 0]
        pairs = zip(query.relevant.tolist(), query.relevant_scores, grades, strict=True)
        return [Entry(row, shortest(score), grade) for row, score, grade in pairs]

    def _negatives(self, query: MinedQuery) -> list[Entry]:
        if query.selection is None:
            return []
        pairs = zip(query.selection.rows.tolist(), query.selection.scores, strict=True)
        return [Entry(row, shortest(score)) for row, score in pairs]

    def _ranked(self, query: MinedQuery, positives: list[Entry], negatives: list[Entry]) -> list[Entry]:
        found = set(query.found) if self.options.include_positives else set()
        own = [entry for entry in positives if entry.row in found]
        return sorted([*own, *negatives], key=lambda entry: -entry.score)

    def _query(self, query: MinedQuery) -> dict[str, Any]:
        if self.options.content == "ids":
            return {"query_id": query.query_id}
        return {"query": self.split.queries[query.query_id]}

    def _beside(self, query: MinedQuery) -> dict[str, Any]:
        """The prompt and the weight that are the query's own."""
        own = {"prompt": self.split.prompts, "weight": self.split.weights}
        return {name: values[query.query_id] for name, values in own.items() if query.query_id in values}

    def _name(self, entry: Entry) -> str:
        return (self.ids if self.options.content == "ids" else self.texts)[entry.row]

    def _tuple(self, query: MinedQuery, positive: Entry, negatives: Sequence[Entry]) -> dict[str, Any]:
        names = [self._name(entry) for entry in negatives]
        by_id, is_triplet = self.options.content == "ids", self.options.output == "triplet"
        row = {**self._query(query), "positive_id" if by_id else "positive": self._name(positive)}
        if is_triplet:
            row["negative_id" if by_id else "negative"] = names[0]
        elif by_id:
            row["negative_ids"] = names
        else:
            row |= {f"negative_{number}": name for number, name in enumerate(names, start=1)}
        scores = {"scores": [positive.score, *(entry.score for entry in negatives)]} if self.options.scores else {}
        return {**row, **scores, **self._beside(query)}

    def _pair(self, query: MinedQuery, entry: Entry) -> dict[str, Any]:
        document = "document_id" if self.options.content == "ids" else "document"
        scores = {"score": entry.score} if self.options.scores else {}
        row = {**self._query(query), document: self._name(entry), "label": whole(entry.grade)}
        return {**row, **scores, **self._beside(query)}

    def _list(self, query: MinedQuery, entries: Sequence[Entry], *, run: bool = False) -> dict[str, Any]:
        scores = [entry.score for entry in entries]
        if run:
            return {
                "query_id": query.query_id,
                "document_ids": [self.ids[entry.row] for entry in entries],
                "scores": scores,
            }
        documents = "document_ids" if self.options.content == "ids" else "documents"
        row = {
            **self._query(query),
            documents: [self._name(entry) for entry in entries],
            "labels": [whole(entry.grade) for entry in entries],
        }
        return {**row, **({"scores": scores} if self.options.scores else {}), **self._beside(query)}


class MinedWriter:
    """Writes rows to a file beside the output, which takes its place at the end."""

    def __init__(self, rows: MinedRows, output: Path) -> None:
        self.rows, self.output = rows, output
        self.is_trec = rows.options.output == "run" and JSONL not in output.suffixes
        self.num_rows = 0

    def write(self, file: TextIO, query: MinedQuery) -> None:
        for row in self.rows.rows(query):
            if self.is_trec:
                self._write_trec(file, row)
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.num_rows += 1

    def _write_trec(self, file: TextIO, row: Mapping[str, Any]) -> None:
        self.rows.left_out += not row["document_ids"]
        check_column(f"{self.output}: query id", row["query_id"])
        pairs = zip(row["document_ids"], row["scores"], strict=True)
        for rank, (document, score) in enumerate(pairs, start=1):
            check_column(f"{self.output}: document id", document)
            file.write(f"{row['query_id']} Q0 {document} {rank} {score!r} {TAG}\n")


@contextmanager
def written_at_the_end(output: Path) -> Iterator[TextIO]:
    """Open a file that becomes `output` if the block ends without an error."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
