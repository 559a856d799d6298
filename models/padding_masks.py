"""Whether a chunk is padded, told to transformers by the host, which knows it.

The mask functions of transformers leave the attention mask out if nothing is padded, so that faster kernels can run.
They find out by reading the mask: on a GPU the host then waits, in every forward, for all that was queued before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from transformers import masking_utils

# Each takes the padding mask [rows, tokens], or None, first, and says whether no mask is needed.
CAN_LEAVE_OUT = ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa")


@contextmanager
def padding_is_known(is_padded: bool) -> Iterator[None]:
    """A context in whose forward passes some row is padded or, if not `is_padded`, none. A release of transformers
    without these functions reads the mask, which gives the same."""
    found = {name: getattr(masking_utils, name) for name in CAN_LEAVE_OUT if hasattr(masking_utils, name)}
    for name, function in found.items():
        setattr(masking_utils, name, partial(_answer, function, is_padded))
    try:
        yield
    finally:
        for name, function in found.items():
            setattr(masking_utils, name, function)


def _answer(
    function: Callable[..., bool], is_padded: bool, padding_mask: Tensor | None, *arguments: Any, **options: Any
) -> bool:
    if padding_mask is not None and is_padded:
        return False
    return function(None, *arguments, **options)
