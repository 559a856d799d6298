"""Teacher scores: the score of every listed document by a reranker or an embedder, written for training."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import IO

from data.collection import Collection, Split
from data.truncation import Truncation, cut_line, limits_of
from engines.distributed import process_group
from engines.distributed.heartbeat import OnLostRank
from evaluation.evaluator import Prompts
from recipes.negatives.output import Output, check_output_path
from recipes.negatives.rows import shortest, write_list
from recipes.negatives.scored_lists import Lists, ScoredLists, score_in_blocks
from recipes.negatives.scoring import ScoringConfig, build_scorer, splits_of_path

logger = logging.getLogger(__name__)

RUNS = (".run", ".trec")
SUFFIXES = (".jsonl", *RUNS)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ScoringConfig):
    """The root of conf/score.yaml."""

    split: str | None = None  # None: all

    def __post_init__(self) -> None:
        super().__post_init__()
        check_output_path(self.output, SUFFIXES)
        if self.writes_run and not self.has_ids:
            raise ValueError(f"output={self.output}: rows of a file have no ids, which a run needs: name a .jsonl file")

    @property
    def writes_run(self) -> bool:
        return self.path.name.removesuffix(".gz").endswith(RUNS)


def score(settings: ScoreConfig, *, on_lost_rank: OnLostRank | None = None) -> float:
    """Score the lists and write the output. Returns the share of lists whose best document is a relevant one (NaN if no
    list has labels)."""
    process_group.start(settings.timeout_s, on_lost_rank)
    started = perf_counter()
    settings.model.check(needs_head=True)  # before the data is read
    collection = settings.data.build()
    splits = chosen_splits(settings, collection)
    runner, tokenizer, key = build_scorer(settings, settings.model, collection)
    key |= {"splits": ", ".join(splits), "depth": str(settings.depth)}
    output = Output(settings.path, key, settings.overwrite)
    if output.is_made():
        logger.warning("output=%s is there already, made by this model from these data", settings.path)
        process_group.stop()
        return math.nan
    with output.locked():
        scored = {
            name: score_in_blocks(
                lists_of(split, collection, settings.depth if settings.has_ids else 0),
                runner,
                tokenizer,
                output.folder / name,
                key,
                settings.token_budget,
            )
            for name, split in splits.items()
        }
        agreement = Agreement()
        if process_group.is_main():
            if line := cut_line(_truncations(scored), limits_of(tokenizer)):
                logger.warning("%s", line)
            agreement = _write(settings, output, collection, scored, perf_counter() - started)
    process_group.stop()
    return agreement.share_first


def chosen_splits(settings: ScoreConfig, collection: Collection) -> dict[str, Split]:
    """The split that is named, or all that the output may hold."""
    if settings.split is not None:
        return {settings.split: collection.split(settings.split)}
    return collection.splits if settings.has_ids else splits_of_path(settings.data, collection)


def lists_of(split: Split, collection: Collection, depth: int) -> Lists:
    """The judged documents of each query, and its first `depth` candidates. A list without judgements is its
    candidates."""

    def documents_of(query: str) -> list[str]:
        judged = list(split.judgements.get(query, ()))
        candidates = split.candidates.get(query, [])[: depth if depth or judged else None]
        listed = dict.fromkeys([*judged, *(document for document, _ in candidates)])
        return [document for document in listed if document in collection.documents]

    return Lists(split.queries, split.prompts, collection.documents, documents_of, Prompts.of(collection))


@dataclass
class Agreement:
    """How well the scores agree with the labels of the lists that have a relevant document and another one."""

    num_lists: int = 0
    num_pairs: int = 0
    num_compared: int = 0
    num_first: int = 0  # lists whose best document is relevant
    num_ordered: int = 0  # pairs of a relevant document and another whose order is right
    num_orders: int = 0

    def add(self, scores: Mapping[str, float], labels: Mapping[str, float]) -> None:
        self.num_lists += 1
        self.num_pairs += len(scores)
        relevant = [score for document, score in scores.items() if labels.get(document, 0) > 0]
        others = [score for document, score in scores.items() if labels.get(document, 0) <= 0]
        if not relevant or not others:
            return
        self.num_compared += 1
        self.num_first += max(relevant) > max(others)
        self.num_ordered += sum(one > other for one in relevant for other in others)
        self.num_orders += len(relevant) * len(others)

    @property
    def share_first(self) -> float:
        return self.num_first / self.num_compared if self.num_compared else math.nan

    def __str__(self) -> str:
        if not self.num_compared:
            return "no list has both a relevant document and another one to compare the scores with"
        return (
            f"a relevant document has the highest score in {self.share_first:.1%} of {self.num_compared:,} lists, and "
            f"a higher one than another in {self.num_ordered / self.num_orders:.1%} of {self.num_orders:,} pairs"
        )


def _write(
    settings: ScoreConfig,
    output: Output,
    collection: Collection,
    scored: Mapping[str, ScoredLists],
    seconds: float,
) -> Agreement:
    """Write the scores of all splits and remove what was not finished."""
    agreement = Agreement()
    write = _write_run if settings.writes_run else _write_ids if settings.has_ids else _write_texts
    meta = {"model": settings.model.name_or_path, "data": collection.name, "precision": settings.precision}
    with output.writing(meta) as stream:
        for name, lists in scored.items():
            split = collection.splits[name]
            for query, scores in lists:
                agreement.add(scores, split.judgements.get(query, {}))
                write(stream, collection, split, query, scores)
    shutil.rmtree(output.folder)
    print(f"{settings.path}: {agreement.num_pairs:,} scores of {agreement.num_lists:,} queries in {seconds:.0f} s")
    print(agreement)
    return agreement


def _write_run(stream: IO[str], _: Collection, __: Split, query: str, scores: Mapping[str, float]) -> None:
    """TREC's lines, best first: qid Q0 docid rank score tag."""
    ranked = sorted(scores.items(), key=lambda pair: -pair[1])
    stream.writelines(
        f"{query} Q0 {document} {rank} {score:.9g} teacher\n" for rank, (document, score) in enumerate(ranked, start=1)
    )


def _write_ids(stream: IO[str], _: Collection, __: Split, query: str, scores: Mapping[str, float]) -> None:
    """A row by id, as data/candidates=run reads it."""
    ranked = sorted(scores.items(), key=lambda pair: -pair[1])
    row = {"query_id": query, "document_ids": [document for document, _ in ranked]}
    stream.write(json.dumps(row | {"scores": [shortest(score) for _, score in ranked]}, ensure_ascii=False) + "\n")


def _write_texts(
    stream: IO[str], collection: Collection, split: Split, query: str, scores: Mapping[str, float]
) -> None:
    labels = split.judgements.get(query, {})
    is_labelled = any(label > 0 for label in labels.values()) or not collection.keep_queries_without_positives
    own = {document: labels.get(document, 0) for document in scores} if is_labelled else None
    write_list(stream, collection, split, query, list(scores), own, list(map(shortest, scores.values())))


def _truncations(scored: Mapping[str, ScoredLists]) -> dict[str, Truncation | None]:
    return {name: lists.truncation for name, lists in scored.items()}
