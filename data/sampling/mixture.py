"""Mixtures of data sets: each global step uses one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from data.batch import ListExample
from data.collection import Collection, Split, content_hash
from data.option_names import building, current_node
from data.overlap import held_out_queries, without_held_out
from data.sampling.epoch_plan import EpochPlan, MixturePlan
from data.sampling.loader import ListLoader
from data.sampling.never_negatives import NeverNegatives
from data.sampling.training_lists import ListTokenizer, TrainingLists, trained_queries
from data.source import SourceOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mixture:
    """Several collections by name, the weights of their steps (None: by size), and the one that is evaluated: one of
    them, or, if it is `held_out_alone`, another one, which nothing is trained on."""

    sources: Mapping[str, Collection]
    weights: Mapping[str, float] | None
    evaluated: Collection
    temperature: float = 1.0
    held_out_alone: bool = False

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of steps of each source: its weight, or (number of training queries) ** (1 / temperature)."""
        if self.weights is not None:
            return dict(self.weights)
        sizes = {name: len(source.split("train").queries) for name, source in self.sources.items()}
        return {name: size ** (1 / self.temperature) for name, size in sizes.items()}

    @property
    def name(self) -> str:
        return " + ".join(self.sources)

    @property
    def skipped(self) -> list[Mapping[str, str]]:
        """The rows of all data sets that are left out."""
        return [row for collection in self._all.values() for row in collection.skipped]

    @property
    def made(self) -> dict[str, Mapping[str, Any]]:
        """What the queries of each data set were made from, of those that say it."""
        return {name: collection.made for name, collection in self._all.items() if collection.made}

    @property
    def _all(self) -> Mapping[str, Collection]:
        """All data sets by name."""
        return {**self.sources, "held_out": self.evaluated} if self.held_out_alone else self.sources

    def map_sources(self, change: Callable[[Collection], Collection]) -> Mixture:
        """The mixture of changed collections; the evaluated one is unchanged."""
        return replace(self, sources={name: change(source) for name, source in self.sources.items()})

    @property
    def fingerprint(self) -> str:
        parts = {name: collection.fingerprint for name, collection in self._all.items()}
        return content_hash(parts, self.shares)

    @property
    def whole_fingerprint(self) -> str:
        """The fingerprint of the data that shares of the training queries were taken from."""
        parts = {name: collection.whole_fingerprint for name, collection in self._all.items()}
        return content_hash(parts, self.shares)

    @property
    def documents(self) -> Mapping[str, str]:
        """The documents of the evaluated collection."""
        return self.evaluated.documents

    @property
    def splits(self) -> dict[str, Split]:
        """The held-out splits of the evaluated collection. Training uses `sources`."""
        return {name: split for name, split in self.evaluated.splits.items() if name != "train"}

    def split(self, name: str) -> Split:
        """The dev or test split of the evaluated collection."""
        return self.evaluated.split(name)

    @property
    def available(self) -> frozenset[str]:
        """What the training lists of all sources provide for a loss."""
        return frozenset.intersection(*(source.available for source in self.sources.values()))

    def available_with(self, list_size: int) -> frozenset[str]:
        """What training lists of that length provide for a loss, in all sources."""
        return frozenset.intersection(*(source.available_with(list_size) for source in self.sources.values()))


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """The options of a mixture. Each global step uses one data set, sampled by (seed, number of the batch) with
    `weights`, or in proportion to (number of training queries) ** (1 / temperature)."""

    sources: Mapping[str, Any] = field(default_factory=dict)  # name: a node of the group data, with its _target_
    weights: Mapping[str, float] | None = None
    temperature: float = 1.0
    evaluate_on: str | None = None
    held_out: Any = None  # a node of the group data, of which dev and test are used and nothing is trained on

    def __post_init__(self) -> None:
        for name, source in self.sources.items():
            if not isinstance(source, SourceOptions):
                raise ValueError(
                    f"data.sources.{name} has no _target_ of a data set: such as data.formats.beir.BEIRConfig or "
                    f"data.formats.file.FileConfig; or +data@data.sources.{name}=file"
                )
            if source.loss is not None and not hasattr(source.loss, "contract"):
                raise ValueError(_not_a_loss(f"data.sources.{name}.loss", source.loss))
        if self.weights is not None:
            if set(self.weights) != set(self.sources):
                raise ValueError(
                    f"data.weights names {_listed(self.weights)}, expected a weight for each of data.sources: "
                    f"{_listed(self.sources)}"
                )
            if not all(0 < weight < float("inf") for weight in self.weights.values()):
                raise ValueError(f"data.weights={dict(self.weights)} must be above 0 and finite")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"data.temperature={self.temperature} must be above 0 and finite")
        if self.weights is not None and self.temperature != 1.0:
            raise ValueError(f"data.temperature={self.temperature} has no effect beside data.weights: set one of them")
        if self.evaluate_on is not None and self.evaluate_on not in self.sources:
            raise ValueError(f"data.evaluate_on={self.evaluate_on} is none of data.sources: {_listed(self.sources)}")
        if self.held_out is not None:
            self._check_held_out()

    def _check_held_out(self) -> None:
        """Raise ValueError if `held_out` is no data set, or beside options that it makes void."""
        if not isinstance(self.held_out, SourceOptions):
            raise ValueError("data.held_out has no _target_ of a data set: +data@data.held_out=beir")
        if self.evaluate_on is not None:
            raise ValueError(f"data.evaluate_on={self.evaluate_on} has no effect beside data.held_out: leave one out")
        if self.held_out.loss is not None:
            raise ValueError("data.held_out.loss has no effect: nothing of it is trained on")

    @property
    def cache(self) -> Path:
        """The folder of cached files that belong to no data set: that of the first."""
        return next(iter(self.sources.values())).cache

    @property
    def own_losses(self) -> Mapping[str, Any]:
        """The loss of each data set by name, None for the run's."""
        return {name: source.loss for name, source in self.sources.items()}

    def prompt_options(self) -> dict[str, str]:
        """The prompts that are set, by the name of the option."""
        return {
            f"{place}.{option}": prompt
            for place, source in self._nodes.items()
            for option, prompt in source.prompt_options().items()
        }

    @property
    def _nodes(self) -> dict[str, SourceOptions]:
        """All data sets by their place in the settings."""
        nodes = {f"sources.{name}": source for name, source in self.sources.items()}
        return nodes if self.held_out is None else {**nodes, "held_out": self.held_out}

    def map_sources(self, change: Callable[[SourceOptions], SourceOptions]) -> MixtureConfig:
        """The options of the mixture of changed data sets."""
        sources = {name: change(source) for name, source in self.sources.items()}
        return replace(self, sources=sources, held_out=None if self.held_out is None else change(self.held_out))

    def evaluated_sets(self) -> Mapping[str, Any]:
        """The data that an evaluation measures: `held_out`, or of the sources the one of `evaluate_on`."""
        return {"": self}

    def build(self) -> Mixture:
        if not self.sources:
            raise ValueError(
                "data.sources is empty: name data sets, such as +data@data.sources.a=beir data.sources.a.path=FOLDER "
                "+data@data.sources.b=file data.sources.b.path=FILE"
            )
        node = current_node()
        collections = {name: _build(f"{node}.sources.{name}", source) for name, source in self.sources.items()}
        alone = None if self.held_out is None else _build(f"{node}.held_out", self.held_out)
        evaluated = self.evaluate_on or _first_held_out(collections)
        held_out = held_out_queries(alone or collections[evaluated], owner=alone.node if alone else evaluated)
        kept = {
            name: without_held_out(source, held_out, source.node, f"leave {source.node} out")
            for name, source in collections.items()
        }
        return Mixture(kept, self.weights, alone or kept[evaluated], self.temperature, held_out_alone=alone is not None)


class MixtureLists(Dataset):
    """The training lists of all sources: `lists[name, epoch, index]`."""

    def __init__(self, sources: Mapping[str, TrainingLists]) -> None:
        self.sources = sources

    def __getitem__(self, key: tuple[str, int, int]) -> ListExample:
        name, epoch, index = key
        return self.sources[name][epoch, index]


def make_loader(
    data: Collection | Mixture,
    tokenizer: ListTokenizer,
    *,
    list_size: int,
    batch_size: int,
    seed: int,
    rank: int,
    world_size: int,
    workers: int,
    in_batch_negatives: bool,
    in_batch_of_source: Mapping[str, bool] | None = None,
    auxiliary: Mapping[str, ListTokenizer] | None = None,
) -> ListLoader:
    """Make the loader of a collection or a mixture, with batches of `batch_size` lists over all ranks.

    With `in_batch_negatives` no two lists of a batch have the same query or relevant document (with
    `data.lists.no_duplicates`: or any document), unless the source isolates its lists (`in_batch`). It depends on the
    loss, so `in_batch_of_source` says it for the sources of a mixture whose losses differ. The batches of a source of a
    mixture that has fewer lists are smaller. What the data of one source judge or exclude for a query also holds for a
    query of equal text in another. `auxiliary`: see `TrainingLists`.
    """

    never_negatives = NeverNegatives(data.sources)

    def lists_of(collection: Collection, name: str) -> TrainingLists:
        return TrainingLists(
            collection,
            tokenizer,
            list_size=list_size,
            seed=seed,
            options=collection.lists,
            auxiliary=auxiliary,
            source=name,
            never_negatives=never_negatives,
        )

    def plan_of(lists: TrainingLists, size: int) -> EpochPlan:
        compared = (in_batch_of_source or {}).get(lists.source, in_batch_negatives) and lists.in_batch
        unique_texts = lists.unique_texts() if compared else None
        if not compared:
            lists.note_unused_grades()
        options = {"source": lists.source, "node": lists.node}
        return EpochPlan(len(lists), batch_size=size, seed=seed, unique_texts=unique_texts, **options)

    ranks = {"rank": rank, "world_size": world_size, "workers": workers}
    if not isinstance(data, Mixture):
        lists = lists_of(data, data.name)
        return ListLoader(lists, plan_of(lists, batch_size), **ranks)
    sources = {name: lists_of(collection, name) for name, collection in data.sources.items()}
    plans = {name: plan_of(lists, _size_of_batches(lists, batch_size)) for name, lists in sources.items()}
    plan = MixturePlan(plans, data.shares, seed=seed)
    return ListLoader(MixtureLists(sources), plan, **ranks)


def batches_per_epoch(data: Collection | Mixture, batch_size: int) -> int:
    """The batches of one pass over the training queries, as the loader's plan has them; in a mixture, of one pass over
    each data set."""
    sizes = [len(trained_queries(collection)) for collection in data.sources.values()]
    return sum(size // min(batch_size, size) for size in sizes if size)


def _size_of_batches(lists: TrainingLists, batch_size: int) -> int:
    """`trainer.batch_size`, or the number of a source's lists if that is smaller, with a note."""
    if 0 < len(lists) < batch_size:
        logger.warning(
            "%s: its batches have %d lists, as many as it has training queries, and not trainer.batch_size=%d",
            lists.node,
            len(lists),
            batch_size,
        )
        return len(lists)
    return batch_size


def _build(node: str, source: SourceOptions) -> Collection:
    with building(node, source):
        return source.build()


def _first_held_out(collections: Mapping[str, Collection]) -> str:
    """The first source with dev and test splits, else the first with one of them, else the first."""
    held_out = {name: len({"dev", "test"} & set(collection.splits)) for name, collection in collections.items()}
    return max(held_out, key=lambda name: held_out[name])


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(str, names)) or "none"


def _not_a_loss(key: str, value: Any) -> str:
    """The message for a value that is not the node of a loss: a name in a file, options without a loss, or another."""
    if isinstance(value, str):
        return (
            f"{key}={value} is a name and not a loss: on the command line that is enough, in a file write "
            f"`- /loss@{key.removeprefix('data.')}: {value}` in its defaults list, after the data set"
        )
    if isinstance(value, Mapping):
        return f"{key} has options ({_listed(value)}) and no _target_: choose the loss too, {key}=NAME of conf/loss"
    return f"{key}={value} is no loss: write the name of one of conf/loss, {key}=NAME"
