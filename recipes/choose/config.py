"""The settings of a choice among models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from engines.precision import check_precision
from evaluation.metrics import parse_metric
from evaluation.reranking_evaluator import RerankingConfig
from evaluation.retrieval_evaluator import RetrievalConfig
from inference.quantize import Precision, check_vector_precision
from recipes.checks.compatibility import check_is_data, check_is_model
from recipes.choose.limits import COSTS, check_limits
from recipes.run_config import check_timeout
from runs.source_tree import CONF

RETRIEVED, RERANKED = 100, 30  # documents per query
SMALLEST_DIM = 32  # of the dimensions that are tried by default


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured of every model: the `eval` of conf/choose.yaml."""

    metric: str = "nDCG@10"
    metrics: list[str] = field(default_factory=lambda: ["nDCG@10", "MRR@10", "recall@10"])
    depth: int | None = None  # documents retrieved per query, or candidates reranked; None: RETRIEVED or RERANKED
    max_queries: int | None = None
    dims: list[int] | None = None  # None: halves of each model's own, down to SMALLEST_DIM
    precision: list[Precision] = field(default_factory=lambda: ["fp32", "int8", "binary"])
    token_budget: int = 16384

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", parse_metric(self.metric).name)
        names = dict.fromkeys([self.metric, *(parse_metric(name).name for name in self.metrics)])
        object.__setattr__(self, "metrics", list(names))
        for name in ("depth", "max_queries", "token_budget"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"eval.{name} must be at least 1, got {value}")
        if any(dim < 1 for dim in self.dims or ()):
            raise ValueError(f"eval.dims={self.dims}: each must be at least 1")
        for precision in self.precision:
            check_vector_precision(precision, "eval.precision")

    def of_embedder(self, dimension: int, search: Literal["exact", "inverted"] = "exact") -> RetrievalConfig:
        """The evaluation of an embedding model of so many dimensions, by the index that it is searched by. An inverted
        one has no dimensions or bits to leave out."""
        halves = [dimension >> shift for shift in (1, 2, 3) if dimension >> shift >= SMALLEST_DIM]
        dims = halves if self.dims is None else [dim for dim in self.dims if dim < dimension]
        plain = search == "inverted"
        return RetrievalConfig(
            metric=self.metric,
            metrics=self.metrics,
            depth=self.depth or RETRIEVED,
            max_queries=self.max_queries,
            dims=[] if plain else dims,
            precision=["fp32"] if plain else self.precision,
            search=search,
            token_budget=self.token_budget,
        )

    def of_reranker(self) -> RerankingConfig:
        """The evaluation of a reranker."""
        return RerankingConfig(
            metric=self.metric,
            metrics=self.metrics,
            depth=self.depth or RERANKED,
            max_queries=self.max_queries,
            token_budget=self.token_budget,
        )


@dataclass(frozen=True, kw_only=True)
class ChooseConfig:
    """The root of conf/choose.yaml."""

    data: Any
    models: list[str]
    output: str
    eval: MeasureOptions = field(default_factory=MeasureOptions)
    of: Any = None  # models.capabilities.ModelOptions of every model; None: the kind that its folder declares
    limit: dict[str, Any] = field(default_factory=dict)
    cost_by: str = "query_ms_p50"
    form_loss: float = 0.01
    windows: Literal["auto", "always", "never"] = "auto"
    windows_from: float = 0.1  # share of documents that are cut, from which "auto" measures windows
    price: dict[str, float] = field(default_factory=dict)  # USD per million tokens, by model
    facts: list[str] = field(default_factory=list)  # files of facts about models (docs/choosing.md)
    split: str = "test"
    precision: str = "auto"
    seed: int = 42
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_timeout(self.timeout_s)
        check_is_data(self.data)
        check_limits(self.limit)
        check_name("cost_by", self.cost_by, COSTS)
        if not 0 <= self.form_loss <= 1:
            raise ValueError(f"form_loss={self.form_loss} must lie in [0, 1]")
        if not 0 <= self.windows_from <= 1:
            raise ValueError(f"windows_from={self.windows_from} must lie in [0, 1]")
        for name, price in self.price.items():
            if price < 0:
                raise ValueError(f"price.{name}={price} must be at least 0 (USD per million tokens)")
        self._check_kind()
        output = Path(self.output).expanduser()
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"output={self.output} is a file: name a folder")
        if not output.absolute().parent.is_dir():
            raise FileNotFoundError(f"output={self.output}: the folder {output.parent} does not exist: make it first")

    def _check_kind(self) -> None:
        if self.of is None:
            return
        check_is_model("of", self.of)
        if self.of.retrieves_by_itself:
            raise ValueError("model@of=bm25: BM25 is always measured: leave it out, and name models in models=[...]")
        named = {yaml.safe_load(file.read_text()).get("name_or_path") for file in (CONF / "model").glob("*.yaml")}
        if self.of.name_or_path not in named:  # those of conf/model come with the choice of a kind
            raise ValueError(f"of.name_or_path={self.of.name_or_path} is not read: name it in models=[...]")

    @property
    def folder(self) -> Path:
        return Path(self.output).expanduser()


def check_name(option: str, name: str, valid: Iterable[str]) -> None:
    """Raise ValueError, with the nearest valid name, if `name` is none of them."""
    names = list(valid)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{option}={name}: {hint}valid: {', '.join(names)}")
