"""The hard negatives of a training run, mined once by the model that it starts from."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from data.bm25 import Ranking
from data.candidates import Ranked
from data.collection import Collection
from data.sampling.mixture import Mixture
from data.store.texts import ids_of
from engines.distributed import process_group
from inference.mine_options import MineOptions
from inference.mining_audit import Audit
from recipes.negatives.corpus import corpus_of
from recipes.negatives.mine_run import MineConfig, build_miner, check_corpus, check_queries
from recipes.negatives.mined_output import MinedRows, MinedWriter, written_at_the_end
from recipes.negatives.mining_report import MiningReport
from recipes.run_config import RunConfig

logger = logging.getLogger(__name__)

FILE = "negatives.jsonl"  # of a run: {"query_id", "document_ids", "scores"}; its audit lies beside it
MINE_OPTION = re.compile(r"\bmine\.(?!py\b)")
NOTHING: Ranking = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


@dataclass(frozen=True, kw_only=True)
class MinedNegatives:
    """Options of mining before training; `launch/mine.py` has further ones. Errors name them as negatives.KEY."""

    num_negatives: int = 5
    range_min: int = 0
    range_max: int | None = None
    percentage: float | Literal["auto"] | None = "auto"
    sampling: str = "top"
    near_duplicate: float | None = 0.8
    token_budget: int = 16384

    def __post_init__(self) -> None:
        _ = self.options  # checks the values

    @property
    def options(self) -> MineOptions:
        try:
            return MineOptions(output="run", **vars(self))
        except ValueError as error:
            raise ValueError(_renamed(error)) from None


def check_negatives(settings: RunConfig) -> None:
    """Raise ValueError, before data is read, if the parts of a run do not fit `negatives`."""
    if settings.negatives is None:
        return
    remedy = "mine them by launch/mine.py and train on its output (data=file), or set negatives=null"
    if "embedding" not in settings.model.outputs:
        raise ValueError(f"negatives: the model scores pairs, by which no corpus can be searched: {remedy}")
    if settings.stages:
        raise ValueError(f"negatives: they are mined once, for a run without stages: {remedy}")
    if getattr(settings.data, "candidates", None) is None:
        raise ValueError(f"negatives: a mixture is mined data set by data set: {remedy}")
    if settings.trainer.list_size == 1:
        raise ValueError("negatives: lists of one document hold none: raise trainer.list_size, or set negatives=null")


def check_negatives_of(settings: RunConfig, data: Collection | Mixture) -> None:
    """Raise ValueError if the training queries of the data cannot be mined, or have scores of a teacher, which mined
    documents lack."""
    if settings.negatives is None:
        return
    data = data.evaluated  # itself: a mixture is refused
    if "teacher_scores" in data.available:
        raise ValueError(
            f"negatives: data {data.name} has scores of a teacher for its own candidates: set negatives=null"
        )
    with _named():
        check_queries(_mine_config(settings, None), data, data.split("train"))
        check_corpus(settings.negatives.options, corpus_of(data, "train", None, settings.data.cache))


def with_mined_negatives(settings: RunConfig, data: Collection | Mixture, folder: Path) -> Collection | Mixture:
    """The data with the negatives that the starting model finds as the candidates of the training queries.

    They and their audit are written to the run's `folder`. Vectors and rankings are kept in the cache, so that a run
    that is resumed has the same negatives at once. Call it on all ranks.
    """
    if settings.negatives is None:
        return data
    data = data.evaluated  # itself: a mixture is refused
    split = data.split("train")
    with _named():
        mining = _mine_config(settings, folder / FILE)
        corpus = corpus_of(data, "train", None, settings.data.cache)
        miner = build_miner(mining, data, split, corpus, may_be_interrupted=True)
    audit, output = Audit(mining.mine, settings.seed), folder / FILE
    writer = MinedWriter(MinedRows(data, split, corpus, mining.mine), output)
    found = dict.fromkeys(split.queries, NOTHING)
    with written_at_the_end(output) if process_group.is_main() else nullcontext() as file:
        for query in miner:
            audit.add(query)
            if query.selection is not None:
                found[query.query_id] = query.selection.rows, query.selection.scores
            if file is not None:
                writer.write(file, query)
    if process_group.is_main():
        report = MiningReport(audit, miner, mining, writer.num_rows)
        report.write()
        _say(audit, miner.searcher.name, sum(not len(rows) for rows, _ in found.values()), report.files[1])
    train = replace(split, candidates=Ranked(found, ids_of(data.documents)))
    return replace(data, splits={**data.splits, "train": train})


def _mine_config(settings: RunConfig, output: Path | None) -> MineConfig:
    return MineConfig(
        model=settings.model,
        data=settings.data,
        mine=settings.negatives.options,
        output=str(output or FILE),
        overwrite=True,
        precision=settings.engine.precision,
        seed=settings.seed,
    )


def _say(audit: Audit, name: str, without: int, page: Path) -> None:
    alone = f"; {without:,} have none, and learn from the documents of other queries alone" if without else ""
    logger.warning(
        "negatives: %s found %s for %s training queries (%.0f%% of what was asked for)%s; audit: %s",
        name,
        f"{audit.filled:,}",
        f"{audit.queries:,}",
        100 * audit.filled / audit.slots,
        alone,
        page,
    )


def _renamed(error: ValueError) -> str:
    """The message with the names that the options have here."""
    return MINE_OPTION.sub("negatives.", str(error))


@contextmanager
def _named() -> Iterator[None]:
    """Let errors of mining name its options as those of `negatives`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_renamed(error)) from error
