"""The interface of evaluators, which training and `launch/evaluate.py` use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from data.collection import Collection, Split
from data.hashing import stable_hash
from data.sampling.mixture import Mixture
from data.truncation import Truncation
from evaluation.metrics import Metrics, Qrels, Run, parse_metric
from inference.runner import Runner


@dataclass(frozen=True)
class EvaluationResult:
    """A model's metrics and its scores `run[query][document]`. `index`: what was searched, in JSON types (see
    `evaluation.retrieval_evaluator.index_of`); None if no corpus was."""

    metrics: Metrics
    run: Run
    index: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Prompts:
    """The prompts of a data set, put before its texts; None: the model's own. A query may have a prompt of its own."""

    query: str | None = None
    document: str | None = None

    @classmethod
    def of(cls, data: Collection | Mixture) -> Prompts:
        """The prompts of the collection that is evaluated."""
        return cls(data.evaluated.query_prompt, data.evaluated.document_prompt)

    def of_queries(self, split: Split, queries: Iterable[str]) -> list[str | None]:
        """The prompt of each query: its own if `split` has one, else the data set's."""
        return [split.prompts.get(query, self.query) for query in queries]


class DevEvaluator(Protocol):
    """Measures a model during training, by which the best checkpoint and the fusion weight are chosen."""

    @property
    def config(self) -> EvaluatorConfig: ...

    @property
    def qrels(self) -> Qrels: ...

    @property
    def has_first_stage(self) -> bool:
        """Whether there is a first stage to compare and fuse with (`EvaluatorConfig.has_first_stage`)."""

    @property
    def first_stage_run(self) -> Run: ...

    def evaluate(self, runner: Runner) -> EvaluationResult:
        """Evaluate the model that `runner` runs. Call it on all ranks; all get the same result."""


class Evaluator(DevEvaluator, Protocol):
    """Measures a model on the judged queries of one split, and the first stage, whose ranking is the split's
    candidates (if the evaluator ranks: `EvaluatorConfig.ranks`)."""

    @property
    def documents(self) -> Mapping[str, str]: ...

    @property
    def queries(self) -> Mapping[str, str]: ...

    @property
    def first_stage_source(self) -> str:
        """The origin of the first stage's scores if the data bring them with each query's documents; else empty."""

    @property
    def first_stage(self) -> Metrics:
        """The first stage's metrics."""

    @property
    def oracle(self) -> Metrics:
        """The metrics of the best possible order of the candidates; empty if the whole corpus is ranked."""

    @property
    def candidate_recall(self) -> float | None:
        """The share of relevant documents that are among the candidates; None if the whole corpus is ranked."""

    @property
    def tokenizer(self) -> Any: ...

    def truncation(self, queries: Container[str] | None = None) -> Truncation | None:
        """How many of the texts that the model reads were cut, of these queries (None: of all); None if its tokenizer
        does not count them. Call it on all ranks."""

    @property
    def partial(self) -> dict[str, Any] | None:
        """The part of the corpus that is searched (`evaluation.retrieval_evaluator.part_of`); None: the whole, or
        none."""

    @property
    def searched(self) -> dict[str, Any] | None:
        """How many documents are searched, and a hash of which; None if none are."""

    @property
    def num_pairs(self) -> int | None:
        """The number of pairs whose scores are compared with labels; None if documents are ranked."""


@dataclass(frozen=True, kw_only=True)
class EvaluatorConfig(ABC):
    """The options of all evaluators. The best checkpoint and the fusion weight are chosen by `metric` on dev."""

    metric: str = "nDCG@10"
    metrics: list[str] = field(default_factory=lambda: ["nDCG@10", "MRR@10", "MAP", "recall@10"])
    max_queries: int | None = None
    dev_max_queries: int | None = 100
    token_budget: int = 16384

    # Outputs that the model must give; empty: scores or embeddings.
    required_outputs: ClassVar[frozenset[str]] = frozenset()
    searches_corpus: ClassVar[bool] = False  # ranks the whole corpus, not the first stage's candidates
    # Whether documents are ranked by relevance; else scores are compared with labels, and there are no values of single
    # queries.
    ranks: ClassVar[bool] = True
    # Options that must be at least 1.
    counts: ClassVar[tuple[str, ...]] = ("max_queries", "dev_max_queries", "token_budget")

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", self.parse(self.metric))
        names = [self.metric, *map(self.parse, self.metrics)]
        object.__setattr__(self, "metrics", list(dict.fromkeys(names)))
        for name in self.counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"eval.{name} must be at least 1, got {value}")

    @property
    @abstractmethod
    def method(self) -> str:
        """How documents are ranked, in a few words for the reader of the results."""

    @classmethod
    def parse(cls, metric: str) -> str:
        """The metric's name as it is shown. Raises ValueError if there is no such metric."""
        return parse_metric(metric).name

    @property
    def retrieval_depth(self) -> int:
        """How many documents of the corpus are retrieved per query; 0: the corpus is not searched."""
        return 0

    @property
    def largest_dimension(self) -> int:
        """The largest number of dimensions to which embeddings are truncated; 0: they are not."""
        return 0

    def has_first_stage(self, split: Split) -> bool:
        """Whether a split has a first stage to compare and fuse with: something has ranked its candidates, and they are
        not just the documents that are listed with a query while the whole corpus is searched."""
        return self.ranks and split.ranked and not (split.listed and self.searches_corpus)

    def check_split(self, split: Split, name: str) -> None:  # noqa: B027 (most need nothing of the labels)
        """Raise ValueError if the split of that name cannot be measured, before a model is loaded."""

    @abstractmethod
    def build(
        self,
        split: Split,
        documents: Mapping[str, str],
        tokenizer: Any,
        *,
        dev: bool = False,
        prompts: Prompts | None = None,
    ) -> Evaluator:
        """Build the evaluator of one split. `dev`: for evaluations during training, limited to `dev_max_queries`."""


def most_own_documents(own_documents: Mapping[str, AbstractSet[str]], queries: Iterable[str]) -> int:
    """The largest number of own documents of a query: a search looks for so many more, since they are left out."""
    return max((len(own_documents.get(query, ())) for query in queries), default=0)


def leave_out(run: Run, own_documents: Mapping[str, AbstractSet[str]], depth: int) -> Run:
    """The first `depth` documents of each query, best first, without those that are the query itself."""
    return {
        query: dict([pair for pair in found.items() if pair[0] not in own_documents.get(query, ())][:depth])
        for query, found in run.items()
    }


def judged_queries(
    split: Split, limit: int | None, judgements: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, str]:
    """The queries of `judgements` (None: the grades) in their order. At most `limit` are chosen by a hash of their ids,
    the same ones in every run."""
    judgements = split.qrels if judgements is None else judgements
    judged = [query for query in split.queries if query in judgements]
    chosen = set(sorted(judged, key=lambda query: stable_hash("evaluated query", query))[:limit])
    return {query: split.queries[query] for query in judged if query in chosen}
