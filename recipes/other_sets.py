"""The data sets that a run is measured on beside its own test, if it has such (`test_suite`): out of domain, as a rule.

Their queries choose no checkpoint and are trained on only if the run's own data have them too, which a line says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from data.collection import Collection, content_hash
from data.formats.suite import in_suite
from data.formats.trec import read_run, write_trec_run
from data.option_names import building
from data.overlap import shared_queries
from data.progress import Progress
from data.sampling.mixture import Mixture
from engines.distributed.collectives import broadcast_object
from engines.distributed.process_group import is_main
from evaluation.evaluator import EvaluationResult, Evaluator, Prompts
from evaluation.metrics import Metrics
from recipes.baseline import measure_start, read_baseline
from recipes.checks.compatibility import check_is_data
from recipes.evaluate.choice import ranking_refused
from recipes.prompts import expect_prompts
from recipes.results import Evaluate, searched_entry, warn_if_cut
from recipes.run_config import RunConfig
from runs.loggers.logger import Logger
from runs.report.queries import write_all_queries

logger = logging.getLogger(__name__)

NODE = "test_suite"
Data = Collection | Mixture


@dataclass(frozen=True)
class OtherSet:
    """A data set with its test split alone. `note`: what its queries share with those of the run, in words; or
    empty."""

    data: Collection
    note: str = ""


def check_test_suite(settings: RunConfig) -> None:
    """Raise ValueError, before data are read, if the run cannot be measured on a test suite."""
    if settings.test_suite is None:
        return
    check_is_data(settings.test_suite)
    if not settings.eval.ranks:
        raise ValueError("test_suite ranks, and eval=similarity does not: leave one of them out")


def read_other_sets(
    settings: RunConfig, collection: Data, training: Sequence[Data], dev_sets: Mapping[str, Collection]
) -> dict[str, OtherSet]:
    """The data sets of the run's `test_suite`; none if it has no such.

    A line says which of their test queries are also in the run's own splits. Raises ValueError or FileNotFoundError,
    which names the set, if one cannot be read, has no test split, or has degrees of similarity as labels.
    """
    suite = settings.test_suite
    if suite is None:
        return {}
    sets: dict[str, Collection] = {}
    with building(NODE, suite):
        for name, options in suite.evaluated_sets().items():
            with in_suite(name, suite, options):
                own = _with_test_alone(options.for_evaluation("test").build())
            if "/" in (name or own.name):
                raise ValueError(f"{name or own.name}: files are called like the set: give it a name without /")
            sets[name or own.name] = own
    dev = [own.splits["dev"].queries for own in dev_sets.values()] or [_queries(collection.evaluated, "dev")]
    places = {
        "train": chain.from_iterable(
            _queries(source, "train").values() for data in training for source in data.sources.values()
        ),
        "dev": chain.from_iterable(queries.values() for queries in dev),
        "test": _queries(collection.evaluated, "test").values(),
    }
    shared = shared_queries({name: _queries(own, "test") for name, own in sets.items()}, places)
    notes = {name: _note(len(sets[name].splits["test"].queries), counts) for name, counts in shared.items()}
    for name, note in notes.items():
        if note:
            logger.warning("%s: %s: %s", NODE, name, note)
    return {name: OtherSet(own, notes[name]) for name, own in sets.items()}


def _with_test_alone(own: Collection) -> Collection:
    split = own.split("test")
    if split.degrees:
        raise ValueError(ranking_refused(own, split.degrees, ""))
    return replace(own, splits={"test": split}, missing={})


def _queries(data: Collection, split: str) -> Mapping[str, str]:
    return data.splits[split].queries if split in data.splits else {}


def _note(number: int, counts: Mapping[str, int]) -> str:
    """What a set of so many test queries shares with the splits of the run."""
    found = {split: count for split, count in counts.items() if count}
    if not found:
        return ""
    if found == {"test": number}:
        return "its test queries are those of the run's own test, so it says nothing of other data"
    seen = "" if set(found) == {"test"} else ", so its values may be too high"
    return (
        f"of its {number:,} test queries the run has "
        f"{', '.join(f'{count:,} in {split}' for split, count in found.items())}{seen}"
    )


@dataclass(frozen=True)
class OtherSets:
    """Measures a run's model on the `sets` of its `test_suite`, by the evaluation of the run. `folder` is
    runs/test_suite in the run's directory."""

    settings: RunConfig
    sets: Mapping[str, OtherSet]
    folder: Path

    def __bool__(self) -> bool:
        return bool(self.sets)

    def score_start(self, model: Any, evaluate: Evaluate, logger: Logger, shared: Path | None) -> None:
        """Measure the starting model on each set, if the run has not done so before it was interrupted. `shared`: the
        folder that keeps its scores on the run's own test for all runs; those on the sets are beside it. Call it on all
        ranks."""
        for name, evaluator in self._evaluators(model):
            data = self.sets[name].data
            own = content_hash([data.fingerprint, str(Prompts.of(data))])
            place = shared and shared.with_name(f"{shared.name}-{own}")
            metrics = measure_start(evaluator, name, evaluate, self.folder / name, place)
            logger.log(_logged(name, metrics), 0)
            warn_if_cut(evaluator, name)

    def score_end(self, model: Any, evaluate: Evaluate, logger: Logger, step: int) -> dict[str, Any]:
        """Measure the trained model on each set: the "test_suite" of summary.json. Values of single queries are written
        to FOLDER/SET.jsonl, the ranking to FOLDER/SET/after.run. Call it on all ranks."""
        entries = {}
        for name, evaluator in self._evaluators(model):
            with Progress(f"{name} after training"):
                after = evaluate(evaluator)
            before = broadcast_object(read_baseline(self.folder / name, None) if is_main() else None)
            results = {"first_stage": evaluator.first_stage} if evaluator.has_first_stage else {}
            results |= {"before": before} if before else {}
            results["after"] = after.metrics
            if is_main():
                self._write(name, evaluator, results, after)
            logger.log(_logged(name, after.metrics), step)
            entries[name] = {
                "queries": len(evaluator.queries),
                **{key: results[key].mean if key in results else None for key in ("first_stage", "before", "after")},
                "note": self.sets[name].note,
                **searched_entry(evaluator),
            }
        return entries

    def _evaluators(self, model: Any) -> Iterator[tuple[str, Evaluator]]:
        """The evaluator of each set, one after the other: each holds the tokens of its texts."""
        expect_prompts(model, *(own.data for own in self.sets.values()))
        for name, own in self.sets.items():
            split, documents = own.data.split("test"), own.data.documents
            yield (
                name,
                self.settings.eval.build(split, documents, model.tokenizer, prompts=Prompts.of(own.data)),
            )

    def _write(self, name: str, evaluator: Evaluator, results: Mapping[str, Metrics], after: EvaluationResult) -> None:
        own = self.folder / name
        own.mkdir(parents=True, exist_ok=True)
        write_trec_run(own / "after.run", after.run, tag="after")
        before = {"before": read_run(own / "before.run")} if "before" in results else {}
        write_all_queries(self.folder / f"{name}.jsonl", evaluator, results, {**before, "after": after.run})


def _logged(name: str, metrics: Metrics) -> dict[str, float]:
    return {f"{NODE}/{name}/{metric}": value for metric, value in metrics.mean.items()}
