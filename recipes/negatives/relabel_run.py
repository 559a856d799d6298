"""Relabelling: negatives of training lists that are likely relevant are reported, dropped, or made positives."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.candidates import NoCandidates
from data.collection import Collection, Split
from engines.distributed import process_group
from engines.distributed.heartbeat import OnLostRank
from evaluation.evaluator import Prompts
from recipes.negatives.output import Output, check_output_path
from recipes.negatives.rows import shortest, teacher_scores, write_list
from recipes.negatives.scored_lists import Lists, ScoredLists, score_in_blocks
from recipes.negatives.scoring import ScoringConfig, build_scorer, splits_of_path
from recipes.negatives.suspicion import Judge, Judgement, Scores, judged
from runs.files import write_json

logger = logging.getLogger(__name__)

ACTIONS = ("report", "drop", "relabel")
NUM_SHOWN = 10  # negatives that are printed
SHOWN = 100  # characters of their texts


@dataclass(frozen=True, kw_only=True)
class RelabelConfig(ScoringConfig):
    """The root of conf/relabel.yaml."""

    action: str = "report"
    judges: list[str] = field(default_factory=list)  # further models, each a path or hub id
    threshold: float = 0.9
    agreement: float = 1.0
    depth: int = 30
    precision: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.action not in ACTIONS:
            raise ValueError(f"action={self.action} must be one of {', '.join(ACTIONS)}")
        if self.action != "report" and self.has_ids and not hasattr(self.data, "exclude"):
            raise ValueError(
                f"action={self.action} writes judgements for data=beir: choose action=report for these data"
            )
        check_output_path(self.output, (self.suffix,))
        if not self.threshold > 0:
            raise ValueError(f"threshold={self.threshold} must be above 0 (1: the score of the lowest positive)")
        if not 0 < self.agreement <= 1:
            raise ValueError(f"agreement={self.agreement} must lie above 0 and be at most 1 (all judges agree)")

    @property
    def suffix(self) -> str:
        """The suffix of the output: of a report, of judgements by id, or of lists with texts."""
        return ".json" if self.action == "report" else ".tsv" if self.has_ids else ".jsonl"


@dataclass(frozen=True)
class TrainingNegatives:
    """The positives and the negatives of the training queries that have both."""

    collection: Collection
    depth: int
    of_files: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # all judgements of the file of train

    @property
    def split(self) -> Split:
        return self.collection.split("train")

    def positives(self, query: str) -> list[str]:
        judged = self.split.judgements.get(query, {})
        return [document for document, label in judged.items() if label > 0]

    def negatives(self, query: str) -> list[str]:
        """The documents judged 0, and the first candidates that are neither judged nor excluded."""
        labels = self.split.judgements.get(query, {})
        excluded = self.collection.excluded.get(query, set())
        candidates = [document for document, _ in self.split.candidates.get(query, [])[: self.depth]]
        listed = dict.fromkeys([*labels, *candidates])
        return [document for document in listed if labels.get(document, 0) <= 0 and document not in excluded]

    def lists(self) -> Lists:
        def documents_of(query: str) -> list[str]:
            positives, negatives = self.positives(query), self.negatives(query)
            return [*positives, *negatives] if positives and negatives else []

        split, collection = self.split, self.collection
        return Lists(split.queries, split.prompts, collection.documents, documents_of, Prompts.of(collection))

    def divided(self, query: str, scores: Scores) -> tuple[Scores, Scores]:
        """The scores of the positives and of the negatives."""
        positives = set(self.positives(query))
        return (
            {document: score for document, score in scores.items() if document in positives},
            {document: score for document, score in scores.items() if document not in positives},
        )


def relabel(settings: RelabelConfig, *, on_lost_rank: OnLostRank | None = None) -> float:
    """Judge the negatives, print what was found, and write the output. Returns the share of the negatives that are
    suspected."""
    process_group.start(settings.timeout_s, on_lost_rank)
    models = [settings.model, *(replace(settings.model, name_or_path=path) for path in settings.judges)]
    for model in models:
        model.check(needs_head=True)  # before the data is read
    collection = settings.data.build()
    check_has_lists(collection)
    negatives = TrainingNegatives(collection, settings.depth, judgements_of_files(settings))
    options = {name: getattr(settings, name) for name in ("action", "threshold", "agreement", "depth")}
    output = Output(settings.path, {"models": _sources(models), "data": collection.fingerprint, **options}, True)
    if not settings.overwrite and settings.path.exists():
        raise ValueError(f"output={settings.path} is there: overwrite=true replaces it, or choose another name")
    share = 0.0
    with output.locked():
        scored = [_score(settings, model, negatives, output.folder / str(i)) for i, model in enumerate(models)]
        if process_group.is_main():
            share = _finish(settings, output, negatives, scored, _sources(models))
    process_group.stop()
    return share


def check_has_lists(collection: Collection) -> None:
    """Raise ValueError if the data have no positives and negatives to train on. Held-out queries are never judged."""
    if collection.split("train").degrees:
        raise ValueError(f"data {collection.name}: {collection.split('train').degrees}: no document is a negative")


def judgements_of_files(settings: RelabelConfig) -> Mapping[str, Mapping[str, float]]:
    """The judgements of the training queries, and of those that are held out of them as dev: a file that takes the
    place of qrels/train.tsv needs them too, else others become dev. Empty if no such file is written."""
    if not (settings.has_ids and settings.action == "relabel"):
        return {}
    data = settings.data.for_evaluation("train")  # nothing is held out
    return replace(data, candidates=NoCandidates()).build().split("train").qrels


def _sources(models: Sequence[Any]) -> list[str]:
    return [model.name_or_path for model in models]


def _score(settings: RelabelConfig, options: Any, negatives: TrainingNegatives, folder: Path) -> ScoredLists:
    """The scores of one judge, whose model is in memory only meanwhile."""
    runner, tokenizer, key = build_scorer(settings, options, negatives.collection)
    key["depth"] = str(settings.depth)
    scored = score_in_blocks(negatives.lists(), runner, tokenizer, folder, key, settings.token_budget)
    del runner
    gc.collect()
    return scored


def _finish(
    settings: RelabelConfig,
    output: Output,
    negatives: TrainingNegatives,
    scored: Sequence[ScoredLists],
    models: Sequence[str],
) -> float:
    judges = [Judge.of(negatives.divided(*each) for each in lists) for lists in scored]
    suspected: dict[str, list[Judgement]] = {}
    num_lists = num_negatives = num_unsure = 0
    for (query, first), *others in zip(*scored, strict=True):
        positives, rest = negatives.divided(query, first)
        if not positives or not rest:
            continue
        scores = [first, *(values for _, values in others)]
        found = judged(query, list(positives), list(rest), list(zip(judges, scores, strict=True)))
        num_lists, num_negatives, num_unsure = num_lists + 1, num_negatives + len(rest), num_unsure + (not found)
        agreed = [each for each in found if each.agreement(settings.threshold) >= settings.agreement]
        if agreed:
            suspected[query] = agreed
    if not num_lists:
        raise ValueError(
            f"data {negatives.collection.name}: no training query has both a positive and a negative to judge: "
            "mine negatives first (launch/mine.py)"
        )
    ranked = sorted((j for each in suspected.values() for j in each), key=lambda judgement: -max(judgement.closeness))
    counts = {
        "lists": num_lists,
        "negatives": num_negatives,
        "suspected": len(ranked),
        "lists_not_judged": num_unsure,
    }
    report = {
        "data": negatives.collection.name,
        "judges": [
            {"model": name, "median": judge.median, "spread": judge.spread}
            for name, judge in zip(models, judges, strict=True)
        ],
        "threshold": settings.threshold,
        "agreement": settings.agreement,
        "action": settings.action,
        **counts,
        "negatives_suspected": [_described(judgement, negatives) for judgement in ranked],
    }
    _print(report, settings)
    _write(settings, output, negatives, suspected, report)
    shutil.rmtree(output.folder)
    return len(ranked) / num_negatives


def _described(judgement: Judgement, negatives: TrainingNegatives) -> dict[str, Any]:
    documents, split = negatives.collection.documents, negatives.split
    return {
        "query_id": judgement.query,
        "document_id": judgement.document,
        "closeness": [round(value, 4) for value in judgement.closeness],
        "scores": list(map(shortest, judgement.scores)),
        "query": split.queries[judgement.query],
        "document": documents[judgement.document],
        "positives": [documents[document] for document in negatives.positives(judgement.query)],
    }


def _print(report: Mapping[str, Any], settings: RelabelConfig) -> None:
    share = report["suspected"] / report["negatives"]
    print(
        f"{report['data']}: {report['suspected']:,} of {report['negatives']:,} negatives ({share:.2%}) of "
        f"{report['lists']:,} training lists are likely relevant (closeness at least {settings.threshold:g} for "
        f"{settings.agreement:.0%} of {len(report['judges'])} judge(s); 0: a median negative, 1: the lowest positive)"
    )
    if report["lists_not_judged"]:
        print(
            f"{report['lists_not_judged']:,} lists are not judged: no judge scores their positive clearly above a "
            "median negative"
        )
    for number, each in enumerate(report["negatives_suspected"][:NUM_SHOWN], start=1):
        closeness = ", ".join(f"{value:.2f}" for value in each["closeness"])
        print(f"\n{number}. closeness {closeness}\n   query:    {_start(each['query'])}")
        print(f"   negative: {_start(each['document'])}\n   positive: {_start(each['positives'][0])}")


def _start(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN]}…"


def _write(
    settings: RelabelConfig,
    output: Output,
    negatives: TrainingNegatives,
    suspected: Mapping[str, Sequence[Judgement]],
    report: Mapping[str, Any],
) -> None:
    if settings.action == "report":
        write_json(settings.path, report)
        print(f"\n{settings.path} lists all of them; action=drop or action=relabel writes data without them")
        return
    write_json(settings.path.with_name(f"{settings.path.name}.report.json"), report)
    documents = {query: [judgement.document for judgement in found] for query, found in suspected.items()}
    with output.writing({}) as stream:
        if settings.has_ids:
            stream.writelines("\t".join(map(str, row)) + "\n" for row in _judgements(settings, negatives, documents))
        else:
            for split, query, labels in _labelled(settings, negatives, documents):
                scores = teacher_scores(split, query, list(labels))
                is_labelled = scores is None or any(labels.values())
                write_list(
                    stream, negatives.collection, split, query, list(labels), labels if is_labelled else None, scores
                )
    used = {
        (True, "drop"): f"data.exclude={settings.path.absolute()}",
        (True, "relabel"): "qrels/train.tsv of the data",
    }.get((settings.has_ids, settings.action), f"data=file data.path={settings.path}")
    print(f"\n{settings.path}: for training as {used}; {settings.path.name}.report.json lists what was changed")


def _judgements(
    settings: RelabelConfig, negatives: TrainingNegatives, suspected: Mapping[str, Sequence[str]]
) -> Iterator[tuple[object, ...]]:
    """Rows of judgements: the pairs that are never negatives, or all judgements with the new ones."""
    yield "query-id", "corpus-id", "score"
    if settings.action == "drop":
        excluded = negatives.collection.excluded
        for query in dict.fromkeys([*excluded, *suspected]):
            for document in dict.fromkeys([*sorted(excluded.get(query, ())), *suspected.get(query, ())]):
                yield query, document, 1
        return
    for query, labels in negatives.of_files.items():
        for document, label in _with_new(labels, suspected.get(query, ())).items():
            yield query, document, label


def _labelled(
    settings: RelabelConfig, negatives: TrainingNegatives, suspected: Mapping[str, Sequence[str]]
) -> Iterator[tuple[Split, str, Mapping[str, float]]]:
    """The lists of all splits with their labels; those of held-out queries are as they were. A split that has files of
    its own is not written."""
    for name, split in splits_of_path(settings.data, negatives.collection).items():
        for query in split.queries:
            labels: dict[str, float] = dict(split.judgements.get(query, {}))
            found = suspected.get(query, ()) if name == "train" else ()
            if settings.action == "drop":
                labels = {document: label for document, label in labels.items() if document not in found}
            else:
                labels = _with_new(labels, found)
            if labels:
                yield split, query, labels


def _with_new(labels: Mapping[str, float], found: Sequence[str]) -> dict[str, float]:
    """The labels of a query with those of new positives: the lowest label of a positive."""
    lowest = min((label for label in labels.values() if label > 0), default=0)  # only a query with one has new ones
    return {**labels, **dict.fromkeys(found, lowest)}
