"""The losses of a run: in a mixture, each data set may have its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SourceLosses:
    """The loss of each global step, whose lists all come from one data set.

    `shared`: the loss of data without one of their own; None if there are none. `by_source`: the loss of each data set
    of a mixture, its own or the shared one; empty if the data are no mixture.
    """

    shared: Any
    by_source: Mapping[str, Any] = field(default_factory=dict)

    def of(self, source: str) -> Any:
        """The loss of a step with lists of that data set."""
        return self.by_source.get(source, self.shared)

    @property
    def used(self) -> list[Any]:
        """The losses that are trained with, each once."""
        losses = self.by_source.values() if self.by_source else [self.shared]
        return list({id(loss): loss for loss in losses}.values())

    def describe(self) -> str:
        """The losses in words, each with the names of its data sets if there are several."""
        if len(self.used) == 1:
            return repr(self.used[0])
        names = {id(loss): [name for name, own in self.by_source.items() if own is loss] for loss in self.used}
        return ", ".join(f"{loss!r} on {' and '.join(names[id(loss)])}" for loss in self.used)
