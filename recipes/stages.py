"""The stages of a run: the settings and the training data of each, derived in this module only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.collection import Collection
from data.hashing import stable_hash
from data.option_names import ROOT, building
from data.overlap import held_out_queries, without_held_out
from data.sampling.list_options import ListOptions
from data.sampling.mixture import Mixture
from losses.contracts import input_names
from models.prompts.run_prompts import RunPrompts
from recipes.checks.compatibility import AUXILIARY_INPUTS
from recipes.chosen_losses import losses_of
from recipes.prompts import run_prompts
from recipes.run_config import RunConfig
from runs.stage_folders import stage_folder


@dataclass(frozen=True)
class Stage:
    """One stage. `settings` are complete: those of a run without stages."""

    name: str
    number: int
    settings: RunConfig
    has_own_data: bool = False  # False: it trains on the run's data
    lists: ListOptions | None = None  # how its training lists are made; None: the options of its data

    @property
    def data_node(self) -> str:
        """The node of its training data in the settings."""
        return f"stage.{self.name}.data" if self.has_own_data else ROOT

    def starting_from(self, folder: Path) -> Stage:
        """The same stage, starting from the model in `folder` with its learned temperature and bias."""
        return replace(self, settings=replace(self.settings, model=self.settings.model.starting_from(folder)))


def stages_of(settings: RunConfig) -> list[Stage]:
    """The stages of a run in their order. A run without stages is returned as one stage."""
    if not settings.stages:
        return [Stage(str(settings.run_name), 1, settings)]
    if settings.adapter_only and len(settings.stages) > 1:
        raise ValueError(
            "adapter_only=true: the last stage's adapter would need the merged model of the stage before as its base: "
            "leave it out, or train one stage"
        )
    stages: list[Stage] = []
    for number, name in enumerate(settings.stages, start=1):
        options, stage_settings = settings.stage[name], _stage_settings(settings, number, name)
        stages.append(Stage(name, number, stage_settings, options.data is not None, options.lists))
    for role in AUXILIARY_INPUTS:
        if getattr(settings, role) is not None and not any(getattr(stage.settings, role) for stage in stages):
            raise ValueError(f"no stage has a loss that uses a {role}: leave model@{role} out")
    return stages


def stage_seed(seed: int, name: str) -> int:
    """The seed of a stage. It depends on the stage's name, not on the stages before it."""
    return stable_hash("stage", seed, name) % 2**31


def _stage_settings(settings: RunConfig, number: int, name: str) -> RunConfig:
    """The run's settings with the stage's data, loss, trainer and directory. Teacher and guide are kept only if one of
    its losses reads them."""
    stage = settings.stage[name]
    folder = stage_folder(Path(settings.output_dir) / str(settings.run_name), number, name)
    own = replace(
        settings,
        run_name=folder.name,
        output_dir=str(folder.parent),
        resume="auto",
        seed=stage_seed(settings.seed, name),
        data=_with_lists(settings.data if stage.data is None else stage.data, stage.lists),
        loss=stage.loss,
        trainer=stage.trainer,
        stages=[],
        stage={},
        push_to_hub=None,
    )
    inputs = {name for loss in losses_of(own).used for name in input_names(loss)}
    unread: dict[str, Any] = {role: None for role, filled in AUXILIARY_INPUTS.items() if filled.isdisjoint(inputs)}
    return replace(own, **unread)


def _with_lists(data: Any, lists: ListOptions | None) -> Any:
    """`data` (a collection, a mixture, or the options of one) with other options for training lists; None:
    unchanged."""
    if lists is None:
        return data
    return data.map_sources(lambda source: replace(source, lists=lists))


def training_data(stage: Stage, data: Collection | Mixture) -> Collection | Mixture:
    """The stage's training data: the run's `data`, or its own data without the queries of the run's dev and test."""
    if not stage.has_own_data:
        return _with_lists(data, stage.lists)
    held_out = held_out_queries(data.evaluated)
    key = f"stage.{stage.name}.data"
    with building(key, stage.settings.data):
        own: Collection | Mixture = stage.settings.data.build()
    remedy = f"give {key} other training queries, or leave it out"
    return own.map_sources(lambda source: without_held_out(source, held_out, f"{key} ({source.name})", remedy))


def stage_prompts(stage: Stage, evaluated: Collection | Mixture, training: Collection | Mixture) -> RunPrompts:
    """The prompts of the stage's `training` data and of the `evaluated` data of the run."""
    return run_prompts(evaluated, training, stage=stage.name if stage.has_own_data else None, adopted=stage.number > 1)
