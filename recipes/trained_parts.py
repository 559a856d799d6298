"""The parts of a model that are trained: every run tells them at its start, and refuses if one that its options ask for
is frozen."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from engines.distributed.process_group import is_main
from models.capabilities import ALL_PARTS, ModelOptions, Part, RankingModel
from runs.directory import RunDirectory


def announce_trained_parts(options: ModelOptions, model: RankingModel, run: RunDirectory) -> None:
    """Print one line with the share of the parameters that is trained, and write it to environment.json.

    Call it once the model is prepared for the loss, and before the engine divides the weights over the ranks. Raises
    ValueError as `check_trained_parts` does.
    """
    check_trained_parts(options, model)
    parts = model.parts()
    run.describe_parameters(as_json(parts))
    if is_main():
        print(trained_line(parts), file=sys.stderr, flush=True)


def check_trained_parts(options: ModelOptions, model: RankingModel) -> None:
    """Raise ValueError if a part that `options` ask to train is missing or frozen as a whole.

    Single weights of a part may be frozen on purpose: an unused pooler, the bias of a score.
    """
    parts, asked = model.parts(), dict(options.parts_to_train())
    every = asked.pop(ALL_PARTS, None)
    for part in parts:
        option = asked.get(part.name, every)
        if option is not None and not part.trained:
            raise _not_trained(model, f"{part.label} is frozen (0 of {part.size:,} parameters are trained)", option)
    for name in asked.keys() - {part.name for part in parts}:
        raise _not_trained(model, f"{name} is missing", asked[name])


def _not_trained(model: RankingModel, what: str, option: str) -> ValueError:
    return ValueError(
        f"model {model.source}: its part {what}, and {option} asks to train it: change that option, or the code that "
        "freezes it (requires_grad=False) when the model is built"
    )


def as_json(parts: Sequence[Part]) -> dict[str, Any]:
    """The number of parameters, and of those that are trained, of the whole model and of each part."""
    whole = {"total": sum(part.size for part in parts), "trained": sum(part.trained for part in parts)}
    return whole | {"parts": {part.label: {"total": part.size, "trained": part.trained} for part in parts}}


def trained_line(parts: Sequence[Part]) -> str:
    """The numbers of `as_json` in one line."""
    total, trained = sum(part.size for part in parts), sum(part.trained for part in parts)
    each = ", ".join(f"{part.label} {part.trained:,} of {part.size:,}" for part in parts)
    return f"trained: {trained:,} of {total:,} parameters ({percent(trained, total)}): {each}"


def percent(count: int, total: int) -> str:
    """The share in percent with one decimal; 0 % and 100 % are exact."""
    if count in (0, total):
        return "100 %" if count else "0 %"
    return f"{min(max(100 * count / total, 0.1), 99.9):.1f} %"
