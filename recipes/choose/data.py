"""The collection on which models are compared."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.bm25 import BM25
from data.candidates import bm25_options_of
from data.collection import Collection
from evaluation.evaluator import judged_queries
from recipes.choose.config import ChooseConfig
from recipes.evaluate.choice import ranking_refused
from recipes.evaluate.config import EvaluationConfig
from recipes.evaluate.held_out import build_data, check_split

FROM_DOCUMENTS = "without judgements, data=documents data.path=FOLDER makes queries from the documents"


def read_data(settings: ChooseConfig, first: Any, *, retrieves: bool) -> Collection:
    """Read the data, with the candidates that are reranked. `first`: the options of a model.

    Raises ValueError if the split cannot be measured, or if rerankers have no first stage.
    """
    if getattr(settings.data, "candidates", None) is None:
        raise ValueError("models are compared on one data set, not on a mixture: choose data=beir and its data.path")
    evaluation = settings.eval.of_embedder(1) if retrieves else settings.eval.of_reranker()
    options = EvaluationConfig(
        model=BM25() if retrieves else first, data=settings.data, eval=evaluation, split=settings.split
    )
    collection = build_data(options)
    try:
        check_split(settings.split, collection)
    except ValueError as error:
        raise ValueError(f"{error}; {FROM_DOCUMENTS}") from error
    split = collection.split(settings.split)
    if split.degrees:
        raise ValueError(ranking_refused(collection.evaluated, split.degrees, ""))
    if not retrieves and (split.listed or not split.ranked or bm25_options_of(settings.data.candidates) is None):
        raise ValueError(
            "rerankers are compared on the candidates of BM25, and these data bring candidates of their own: set "
            "data/candidates=bm25, or evaluate each by launch/evaluate.py"
        )
    if not retrieves and not any(split.candidates[query] for query in judged_queries(split, settings.eval.max_queries)):
        raise ValueError(f"data {collection.name}: BM25 finds no candidate for any query: no word is shared")
    return collection


def is_made(collection: Collection) -> bool:
    """Whether the queries were made from the documents."""
    return bool(collection.made)


def names_of(data: Any, collection: Collection) -> Iterable[str]:
    """The names by which others may know these data."""
    path = getattr(data, "path", None)
    return dict.fromkeys([collection.name, *([Path(str(path)).name] if path else [])])
