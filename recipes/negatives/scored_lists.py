"""Score the documents of lists by a model, block by block. Blocks stay on disk, so a killed command goes on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.progress import show_progress
from data.truncation import Truncation
from engines.distributed.collectives import broadcast_object
from engines.distributed.process_group import is_main
from evaluation.evaluator import Prompts
from evaluation.list_scorer import ListScorer
from inference.runner import Runner

logger = logging.getLogger(__name__)

# Pairs of a block, by the layout of the model's rows: what a killed command scores again. An embedder reads a document
# once for all queries of a block.
BLOCK_PAIRS = {"pairs": 4096, "texts": 65536}
KEY = "key.json"


@dataclass(frozen=True)
class Lists:
    """Queries and the ids of the documents that each lists. `documents_of` is asked for one query at a time."""

    queries: Mapping[str, str]
    query_prompts: Mapping[str, str]  # of queries that have one of their own
    documents: Mapping[str, str]
    documents_of: Callable[[str], Sequence[str]]
    prompts: Prompts
    layout: str = "pairs"  # of the model's rows

    def blocks(self) -> Iterator[list[str]]:
        """The queries in blocks of about BLOCK_PAIRS pairs. They do not depend on the number of ranks."""
        limit = BLOCK_PAIRS[self.layout]
        block: list[str] = []
        num_pairs = 0
        for query in self.queries:
            size = len(self.documents_of(query))
            if block and num_pairs + size > limit:
                yield block
                block, num_pairs = [], 0
            block.append(query)
            num_pairs += size
        if block:
            yield block


@dataclass
class BlockScorer(ListScorer):
    """Scores the lists of one block."""

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    query_prompts: Mapping[str, str | None]
    document_prompt: str | None
    lists: Mapping[str, Mapping[str, float]]
    tokenizer: Any


@dataclass(frozen=True)
class ScoredLists:
    """The scores that `score_in_blocks` has written to a folder. `truncation` counts the texts that were cut."""

    lists: Lists
    folder: Path

    def __iter__(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Each query with its documents and their scores, in the order of the lists."""
        for number, queries in enumerate(self.lists.blocks()):
            values = iter(_read(self.folder, number)["scores"].tolist())
            for query in queries:
                yield query, {document: next(values) for document in self.lists.documents_of(query)}

    @property
    def truncation(self) -> Truncation:
        parts = [_read(self.folder, number)["truncated"] for number, _ in enumerate(self.lists.blocks())]
        return Truncation(*np.sum(parts, axis=0).tolist())


def score_in_blocks(
    lists: Lists, runner: Runner, tokenizer: Any, folder: Path, key: Mapping[str, str], token_budget: int
) -> ScoredLists:
    """Score all lists, on all ranks, into `folder`, and return what it then holds. Blocks that are there already are
    not scored again if they have the same `key`, {what: its fingerprint}; one line says why others are not used."""
    lists = replace(lists, layout=tokenizer.layout)
    done = broadcast_object(_begin(folder, key) if is_main() else set())
    blocks = [(number, queries) for number, queries in enumerate(lists.blocks()) if number not in done]
    for number, queries in show_progress(blocks, "scoring lists", len(blocks)):
        scorer = _scorer(lists, queries, tokenizer)
        scores = scorer.score(runner, token_budget) if any(scorer.lists.values()) else {}
        truncation = (scorer.truncation() if scores else None) or Truncation()
        if is_main():
            values = [score for documents in scores.values() for score in documents.values()]
            _write(folder, number, np.array(values, dtype=np.float32), truncation)
    return ScoredLists(lists, folder)


def _scorer(lists: Lists, queries: Sequence[str], tokenizer: Any) -> BlockScorer:
    return BlockScorer(
        documents=lists.documents,
        queries={query: lists.queries[query] for query in queries},
        query_prompts={query: lists.query_prompts.get(query, lists.prompts.query) for query in queries},
        document_prompt=lists.prompts.document,
        lists={query: dict.fromkeys(lists.documents_of(query), 0.0) for query in queries},
        tokenizer=tokenizer,
    )


def _begin(folder: Path, key: Mapping[str, str]) -> set[int]:
    """Make the folder, unless blocks of the same key are there. Returns the numbers of these."""
    file = folder / KEY
    if file.is_file():
        known = json.loads(file.read_text())
        changed = [name for name, value in key.items() if known.get(name) != value]
        if not changed:
            done = {int(part.stem) for part in folder.glob("*.npz")}
            if done:
                logger.warning("%s: %d blocks of an earlier command are used", folder, len(done))
            return done
        logger.warning("%s is not used: it was made with another %s", folder, ", ".join(changed))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file.write_text(json.dumps(dict(key)))
    return set()


def _write(folder: Path, number: int, scores: np.ndarray, truncation: Truncation) -> None:
    unfinished = folder / f"{number:06d}.tmp"
    with unfinished.open("wb") as stream:
        np.savez(stream, scores=scores, truncated=np.array(astuple(truncation), dtype=np.int64))
    unfinished.replace(folder / f"{number:06d}.npz")


def _read(folder: Path, number: int) -> dict[str, np.ndarray]:
    with np.load(folder / f"{number:06d}.npz") as arrays:
        return dict(arrays)
