"""Why a backend does not give the golden values: a changed folder, or a known deviation that gives what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.loading.folder import first_line
from recipes.serving.contract import Export
from recipes.serving.folder_changes import changed_files, changed_tensors, changed_tokens
from recipes.serving.reference import Reference
from recipes.serving.variants import FLOATS, Variant, rounded_weights, variants

FEWEST_ROWS = 3  # by which a deviation is recognised
UNKNOWN = "unknown: none of the known deviations gives this output"


def largest_difference(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference; infinite if the shapes differ or a value is not finite."""
    if first.shape != second.shape or not first.isfinite().all():
        return float("inf")
    return float((first - second).abs().max()) if first.numel() else 0.0


@dataclass
class Detective:
    """Names causes for one export. The folder is loaded, and its own deviation sought, once."""

    export: Export
    tolerance: float
    reference: Reference | None = None
    own: Tensor | None = None  # what plackett gives for the golden rows
    folder: list[str] = field(default_factory=list)  # what is wrong with the folder itself
    files: list[str] = field(default_factory=list)
    _outputs: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, export: Export, tolerance: float) -> Detective:
        """Load the export, compare it with its golden values, and find what has changed."""
        files = changed_files(export)
        try:
            reference = Reference.load(export)
            own = reference.values(reference.rows())
        except Exception as error:  # a broken folder raises errors of many kinds
            broken = [*changed_tensors(export), f"plackett cannot load it: {first_line(error)}"]
            return cls(export, tolerance, folder=broken, files=files)
        detective = cls(export, tolerance, reference, own, files=files)
        if largest_difference(own, export.golden.values) > tolerance:
            detective.folder = detective._changes(reference) or [UNKNOWN]
        return detective

    def _changes(self, reference: Reference) -> list[str]:
        tokens = changed_tokens(reference)
        found = [tokens] if tokens else []
        found += changed_tensors(self.export)
        if found:
            return found
        name = self._matching(self.export.golden.values, self.own, None, slice(None))
        return [f"{name}: with that the folder gives its golden values; the folder was changed"] if name else []

    def causes(
        self, values: Tensor, expected: Tensor, activation: Callable[[Tensor], Tensor] | None, rows: Tensor
    ) -> list[str]:
        """The causes of a backend's difference. `values`: its output, `expected`: that of training, `rows`: the indices
        that are compared, `activation`: what both are through."""
        if not values.isfinite().all():
            return ["values: not all are finite", *self.folder, *self.files]
        if self.own is not None:
            own = self.own if activation is None else activation(self.own)
            if self.folder and largest_difference(values[rows], own[rows]) <= self.tolerance:
                return [*self.folder, *self.files]
        name = None if self.reference is None else self._matching(values, expected, activation, rows)
        name = name or self._rounding(values, expected, activation, rows)
        found = [*([name] if name else []), *self.folder, *self.files]
        return found or [UNKNOWN]

    def unread(self) -> Iterator[tuple[str, Any]]:
        """What other libraries do not read of the export, each with the whole embeddings that it gives without."""
        if self.reference is not None:
            for name, attributes in self.reference.model.unread_by_others.items():
                with self.reference.changed(attributes):
                    vectors = self.reference.outputs(self.reference.rows())
                yield name, vectors

    def _variants(self) -> Iterator[tuple[str, Tensor]]:
        assert self.reference is not None
        every: Iterator[Variant] = variants(self.reference)
        for variant in every:
            if variant.name not in self._outputs:
                self._outputs[variant.name] = variant.output()
            yield variant.name, self._outputs[variant.name]

    def _matching(
        self,
        target: Tensor,
        expected: Tensor | None,
        activation: Callable[[Tensor], Tensor] | None,
        rows: Tensor | slice,
    ) -> str | None:
        """The deviation whose output is `target`: on all rows, or on those that the model reads whole, as a deviation
        may also move the place where a text is cut."""
        assert expected is not None
        golden = self.export.golden.rows
        every = torch.arange(len(golden))[rows]
        whole = every[[not golden[index].truncated for index in every.tolist()]]
        for chosen in (every, whole):
            for name, raw in self._variants():
                output = raw if activation is None or name.startswith("activation") else activation(raw)
                if output.shape != target.shape or len(chosen) < FEWEST_ROWS:
                    continue
                if largest_difference(output[chosen], expected[chosen]) <= self.tolerance:
                    continue  # it changes nothing
                if largest_difference(output[chosen], target[chosen]) <= self.tolerance:
                    return name
        return None

    def _rounding(
        self, values: Tensor, expected: Tensor, activation: Callable[[Tensor], Tensor] | None, rows: Tensor
    ) -> str | None:
        """The shorter type of number whose rounding is as large as the difference."""
        if self.reference is None:
            return None
        found = largest_difference(values[rows], expected[rows])
        sizes = {}
        for name in FLOATS:
            raw = rounded_weights(self.reference, name)
            output = raw if activation is None else activation(raw)
            sizes[name] = largest_difference(output[rows], expected[rows])
        near = {name: abs(float(torch.tensor(found / max(size, 1e-12)).log())) for name, size in sizes.items()}
        best = min(near, key=lambda name: near[name])
        if near[best] > 1.6:  # a factor of 5
            return None
        return f"dtype: the difference is as large as that of {best} weights ({sizes[best]:.1e})"
