"""torch.compile for a model that is trained in chunks of any shape, some of which run twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def compile_in_place(model: nn.Module) -> None:
    """Compile the calls of `model`. The module stays the same: names of weights, exports and copies do not change.

    One graph serves chunks of all shapes. Dropout draws as it does without compilation: so a chunk that is run again,
    with gradients instead of without, has the same masks, although its graph is another one.
    """
    model.compile(dynamic=True, options={"fallback_random": True})


@contextmanager
def explain_compiler_errors() -> Iterator[None]:
    """Raise ValueError, which names the remedy, if the model cannot be compiled on this machine."""
    from torch._dynamo.exc import BackendCompilerFailed  # takes seconds, and only a compiled model needs it

    try:
        yield
    except BackendCompilerFailed as error:
        reason = " ".join(str(error.inner_exception).split()).split(". ")[0][:200]
        raise ValueError(
            f"engine.compile=true: the model cannot be compiled here ({reason}): set engine.compile=false"
        ) from error
