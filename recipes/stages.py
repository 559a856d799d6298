"""A run's stages as runs of their own, each starting from the model that the one before has left, and their sum."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.collection import Collection, Split, normalised
from data.hashing import stable_hash
from data.sampling.list_options import ListOptions
from data.sampling.mixture import Mixture
from losses.contracts import input_names
from models.export.folder import card_of
from recipes.compatibility import FROZEN_INPUTS
from recipes.run_config import RunConfig, StageConfig
from runs.stage_folders import stage_folder


@dataclass(frozen=True)
class Stage:
    """A stage as a run: `settings` are those of a run without stages. `first_step` counts the updates of
    the stages before it."""

    name: str
    number: int
    first_step: int
    settings: RunConfig

    def starting_from(self, folder: Path) -> Stage:
        """The stage, started from the model in `folder`, a learned temperature and bias included."""
        return replace(self, settings=replace(self.settings, model=self.settings.model.starting_from(folder)))


def stages_of(settings: RunConfig) -> list[Stage]:
    """The stages in their order; of a run without any, the run itself."""
    if not settings.stages:
        return [Stage(str(settings.run_name), 1, 0, settings)]
    if settings.adapter_only and len(settings.stages) > 1:
        raise ValueError(
            "adapter_only=true: the last stage's adapter would lie on the merged model of the stage before, and load "
            "nowhere without: leave it out, or train one stage"
        )
    folder = stage_folder(Path(settings.output_dir) / str(settings.run_name), 1, "").parent
    stages: list[Stage] = []
    for number, name in enumerate(settings.stages, start=1):
        last = stages[-1] if stages else None
        first_step = last.first_step + last.settings.trainer.max_steps if last else 0
        own = replace(
            _with_stage(settings, settings.stage[name]),
            run_name=f"{number}-{name}",
            output_dir=str(folder),
            resume="auto",
            seed=stage_seed(settings.seed, name),
            stages=[],
            stage={},
            push_to_hub=None,
        )
        stages.append(Stage(name, number, first_step, own))
    for role in FROZEN_INPUTS:
        if getattr(settings, role) is not None and not any(getattr(stage.settings, role) for stage in stages):
            raise ValueError(f"no stage has a loss that reads anything of a {role}: leave model@{role} out")
    return stages


def stage_seed(seed: int, name: str) -> int:
    """Of a stage's lists and draws: the same whichever stages come before it, and another in each of them."""
    return stable_hash("stage", seed, name) % 2**31


def _with_stage(settings: RunConfig, stage: StageConfig) -> RunConfig:
    """`settings` with a stage's data, loss and trainer. A teacher or guide goes to the stages whose losses read it."""
    data = _with_lists(settings.data if stage.data is None else stage.data, stage.lists)
    unread: dict[str, Any] = {role: None for role, read in FROZEN_INPUTS.items() if read not in input_names(stage.loss)}
    return replace(settings, data=data, loss=stage.loss, trainer=stage.trainer, **unread)


def _with_lists(data: Any, lists: ListOptions | None) -> Any:
    """A data set, its options, a mixture or its options, with training lists made in that way; None: as they are."""
    if lists is None:
        return data
    if hasattr(data, "sources"):
        return replace(data, sources={name: replace(source, lists=lists) for name, source in data.sources.items()})
    return replace(data, lists=lists)


def training_data(stage: Stage, options: StageConfig, data: Collection | Mixture) -> Collection | Mixture:
    """What the stage trains on: the run's `data`, or data of its own without the queries that the run holds out."""
    if options.data is None:
        return _with_lists(data, options.lists)
    held_out = {normalised(text) for name in ("dev", "test") if name in data.splits for text in _texts(data, name)}
    own = stage.settings.data.build()
    if isinstance(own, Mixture):
        return replace(own, sources={name: _without(source, held_out) for name, source in own.sources.items()})
    return _without(own, held_out)


def _texts(data: Collection | Mixture, split: str) -> Sequence[str]:
    return list(data.splits[split].queries.values())


def _without(collection: Collection, texts: set[str]) -> Collection:
    """`collection` without the training queries of those (normalised) texts."""
    train = collection.split("train")
    kept = {query: text for query, text in train.queries.items() if normalised(text) not in texts}
    split: Split = replace(train, queries=kept, qrels={query: train.qrels[query] for query in kept})
    return replace(collection, splits={**collection.splits, "train": split})


def join_summaries(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """summary.json of the run: where the first stage began, where the last one ended, and the sum of what they cost."""
    first, last = summaries[0], summaries[-1]
    steps = sum(summary["steps"] for summary in summaries)
    seconds = sum(summary["seconds"] for summary in summaries)
    rates = {
        name: sum(summary[name] * summary["seconds"] for summary in summaries) / max(seconds, 1e-9)
        for name in ("rows_per_s", "tokens_per_s")
    }
    return {
        **last,
        **rates,
        "before": first["before"],
        "metrics": {**last["metrics"], "before": first["metrics"]["before"]},
        "best_step": exported_step(summaries),
        "steps": steps,
        "seconds": seconds,
        "peak_memory_bytes": max(summary["peak_memory_bytes"] for summary in summaries),
    }


def exported_step(summaries: Sequence[Mapping[str, Any]]) -> int | None:
    """The step of the run that the exported weights are of: a stage whose best is its start has passed on those of the
    stage before. 0: the starting model; None: without a dev split, the last."""
    first_step = sum(summary["steps"] for summary in summaries)
    for summary in reversed(summaries):
        first_step -= summary["steps"]
        if summary["best_step"] is None:
            return None
        if summary["best_step"] > 0:
            return first_step + summary["best_step"]
    return 0


def gather_results(run: Path, stages: Sequence[Path], *, source: str, card: str) -> None:
    """Put the last stage's model, test scores and shown queries into the run's folder, as links where they can be. The
    model card is the run's own: trained from `source`, `card` is its text."""
    for file in ("runs/before.run", "runs/before.json"):
        _link(stages[0] / file, run / file)
    for file in ("runs/after.run", "runs/fused.run", "queries.json"):
        _link(stages[-1] / file, run / file)
    shutil.rmtree(run / "model", ignore_errors=True)
    last, readme = stages[-1] / "model", "README.md"
    shutil.copytree(last, run / "model", copy_function=_link, ignore=shutil.ignore_patterns(readme))
    text = card_of((last / readme).read_text(encoding="utf-8"), folder=run / "model", of=last, source=source, body=card)
    (run / "model" / readme).write_text(text, encoding="utf-8")


def _link(source: str | Path, target: str | Path) -> None:
    """A second name of the file, which takes no space; a copy where the disk has no such links."""
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
