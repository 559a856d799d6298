"""What the commands that score lists share: settings, the output, and the model with what its scores depend on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from data.collection import Collection, Split, content_hash
from engines.distributed import process_group
from engines.precision import MixedPrecision, autocast_dtype, check_precision
from inference.fingerprint import model_key
from recipes.build import read_corpus
from recipes.checks.compatibility import check_is_data, check_is_model
from recipes.prompts import expect_prompts
from recipes.run_config import check_timeout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """The settings that launch/score.py and launch/relabel.py have in common."""

    model: Any
    data: Any
    output: str | None = None
    depth: int = 100  # candidates of a query, beside its judged documents
    precision: str = "fp32"
    token_budget: int = 16384
    overwrite: bool = False
    seed: int = 42
    timeout_s: float = 1800.0

    counts: ClassVar[tuple[str, ...]] = ("depth", "token_budget")  # options that must be at least 1

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_timeout(self.timeout_s)
        check_is_model("model", self.model)
        check_is_data(self.data)
        check_scores(self.model)
        if getattr(self.data, "sources", None) is not None:
            raise ValueError("data is a mixture: give one of its data sets at a time (data=file data.path=FILE)")
        for name in self.counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def path(self) -> Path:
        assert self.output is not None
        return Path(self.output)

    @property
    def has_ids(self) -> bool:
        """Whether the data have ids of their own. Else rows are written with their texts."""
        return getattr(self.data, "has_ids", True)


def check_scores(model: Any) -> None:
    """Raise ValueError if the model gives no score of a query and a document."""
    if model.retrieves_by_itself:
        raise ValueError(f"model={model.name} gives no teacher scores: choose a reranker or an embedder")
    if not {"score", "embedding"} & set(model.outputs):
        raise ValueError("model gives neither scores nor embeddings: choose a reranker or an embedder")


def splits_of_path(data: Any, collection: Collection) -> dict[str, Split]:
    """The splits that one file of lists may hold, which a reader of it divides again: those of `data.path`. Splits with
    files of their own (data.test_path=FILE) are left out, since their queries would be trained on; a line says so."""
    own = set(data.reader().splits) - {"train"} if hasattr(data, "reader") else set()
    if (left_out := [name for name in collection.splits if name in own]) and process_group.is_main():
        what = " and ".join(left_out)
        logger.warning("data %s: %s queries have files of their own, and are not written", collection.name, what)
    return {name: split for name, split in collection.splits.items() if name not in own}


class ScorerSettings(Protocol):
    """The settings on which a scorer depends."""

    @property
    def precision(self) -> str: ...

    @property
    def seed(self) -> int: ...


def build_scorer(
    settings: ScorerSettings, options: Any, collection: Collection
) -> tuple[MixedPrecision, Any, dict[str, str]]:
    """The runner of a model, its tokenizer, and what its scores depend on, by name, each with its fingerprint."""
    device = process_group.device()
    model = options.build(settings.seed).to(device)
    expect_prompts(model, collection)
    read_corpus(model, collection)
    runner = MixedPrecision(model, autocast_dtype(settings.precision, device))
    parts = model_key(model, precision=runner.precision)
    prompts = content_hash([collection.query_prompt, collection.document_prompt])  # the fingerprint has those of rows
    key = {f"model {name}": value for name, value in parts.items()}
    key |= {"data": collection.fingerprint, "prompts of the data": prompts}
    return runner, model.tokenizer, key
