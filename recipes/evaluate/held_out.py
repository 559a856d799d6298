"""The held-out queries of an evaluation, and the candidates that they need."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.candidates import NOTHING, CandidateSource, LeftOut, NoCandidates, Queries, bm25_options_of
from data.collection import Candidates, Collection, Split
from recipes.evaluate.config import EvaluationConfig

# Names of splits elsewhere -> the names here.
SPLITS_OF_OTHERS = {
    **dict.fromkeys(("validation", "valid", "val", "eval", "development"), "dev"),
    **dict.fromkeys(("training", "fit"), "train"),
    **dict.fromkeys(("testing", "held_out"), "test"),
}


@dataclass(frozen=True)
class CandidatesOfSplits:
    """Candidates for the queries of some splits; the queries of other splits get empty lists."""

    source: CandidateSource
    splits: tuple[str, ...]

    def build(
        self, documents: Mapping[str, str], queries: Queries, cache_dir: Path, left_out: LeftOut = NOTHING
    ) -> dict[str, Candidates]:
        wanted = {name: texts for name, texts in queries.items() if name in self.splits}
        empty: dict[str, Candidates] = {
            name: {query: [] for query in texts} for name, texts in queries.items() if name not in wanted
        }
        return empty | (self.source.build(documents, wanted, cache_dir, left_out) if wanted else {})


def build_data(settings: EvaluationConfig, *, search: bool = True) -> Collection:
    """Build the collection. For retrieval, BM25 returns as many documents as the model does, for evaluated queries
    only; for labels of pairs it searches for none, nor without `search`."""
    data = settings.data.map_sources(lambda source: source.for_evaluation(settings.split))
    if settings.first_stages and hasattr(data, "candidates"):  # they give the candidates
        return replace(data, candidates=NoCandidates()).build()
    bm25 = bm25_options_of(getattr(data, "candidates", None))
    if bm25 is None or (search and settings.eval.ranks and not settings.retrieves):
        return data.build()
    source = replace(bm25, depth=max(bm25.depth, settings.eval.retrieval_depth))
    searches = search and settings.eval.ranks and not settings.model.retrieves_by_itself
    splits = tuple(settings.splits) if searches else ()
    return replace(data, candidates=CandidatesOfSplits(source, splits)).build()


def check_split(split: str, collection: Collection) -> None:
    """Raise ValueError if the data have no such split; it names those that there are."""
    data = collection.evaluated
    if split not in data.splits and split not in data.missing:
        found = " or ".join(f"split={name}" for name in data.splits)
        meant = SPLITS_OF_OTHERS.get(split)
        close = [meant] if meant in data.splits else difflib.get_close_matches(split, list(data.splits), n=1)
        raise ValueError(
            f"data {data.name} has no {split} split: {''.join(f'did you mean {name}? ' for name in close)}add "
            f"its judgements, or choose {found or 'other data'}"
        )
    collection.split(split)


def merge_splits(collection: Collection, queries: Mapping[str, str]) -> Split:
    """A split that holds `queries`, which may come from several splits."""

    def select(name: str) -> dict[str, Any]:
        values = (getattr(split, name).items() for split in collection.splits.values())
        return {query: value for items in values for query, value in items if query in queries}

    return Split(
        dict(queries),
        select("qrels"),
        select("candidates"),
        prompts=select("prompts"),
        own_documents=select("own_documents"),
    )
