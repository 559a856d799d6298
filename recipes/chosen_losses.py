"""The losses that a run's settings choose: one for all data, and in a mixture those of data sets with their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data.option_names import ROOT
from recipes.run_config import RunConfig
from trainers.source_losses import SourceLosses

SHARED = "loss"  # the option of the loss of all data without one of their own


@dataclass(frozen=True)
class ChosenLoss:
    """A loss and the option that chooses it. `source`: the data set of a mixture that it belongs to; None: it is the
    loss of all data sets without their own."""

    loss: Any
    option: str = SHARED
    source: str | None = None

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Name the loss of a data set, and its options, as they are named in the settings. (Messages are written as for
        `loss`.)"""
        try:
            yield
        except ValueError as error:
            if self.source is not None:
                error.args = (f"{self.option}: {in_option(str(error), self.option)}",)
            raise


def in_option(message: str, option: str) -> str:
    """The message with loss.KEY as OPTION.KEY, and loss=NAME as OPTION=NAME.

    >>> in_option("set loss.bias or loss=bce", "data.sources.a.loss")
    'set data.sources.a.loss.bias or data.sources.a.loss=bce'
    """
    return re.sub(r"(?<![\w./@-])loss(?=[.=])", lambda _: option, message)


def chosen_losses(settings: RunConfig, node: str = ROOT) -> list[ChosenLoss]:
    """The losses of a run without stages: first the shared one, if data use it, then those of single data sets. `node`:
    of its training data in the settings.

    Raises ValueError if a data set has no loss, or if no data set is left for the shared one.
    """
    own = settings.data.own_losses
    without = [name for name, loss in own.items() if loss is None]
    chosen = [ChosenLoss(loss, f"{node}.sources.{name}.loss", name) for name, loss in own.items() if loss is not None]
    if settings.loss is None and without and chosen:
        options = " and ".join(f"{node}.sources.{name}.loss=NAME" for name in without)
        raise ValueError(f"loss=null, and no loss for the data of {', '.join(without)}: set loss=NAME or {options}")
    if settings.loss is None and not chosen:
        raise ValueError("loss is null: choose one of conf/loss, loss=NAME")
    if settings.loss is not None and chosen and not without:
        raise ValueError(
            f"loss {type(settings.loss).__name__} is used by no data set: each has its own "
            f"({', '.join(each.option for each in chosen)}): set loss=null, or {chosen[0].option}=null to use it there"
        )
    losses = chosen if settings.loss is None else [ChosenLoss(settings.loss), *chosen]
    for each in losses:
        if clash := own.keys() & getattr(each.loss, "terms", {}).keys():
            raise ValueError(
                f"{each.option}.terms.{min(clash)} and {node}.sources.{min(clash)} would both be logged as "
                f"loss/{min(clash)}: give one of them another name"
            )
    return losses


def losses_of(settings: RunConfig) -> SourceLosses:
    """The losses of a run without stages, as its trainer gets them."""
    own: Mapping[str, Any] = settings.data.own_losses
    return SourceLosses(settings.loss, {name: settings.loss if loss is None else loss for name, loss in own.items()})
