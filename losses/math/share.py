"""The share of a global step that one process computes: some of its lists, and what it makes with the other processes.

A loss computes the terms of its own lists alone. `Share.sum` and `Share.gather` make of the terms what belongs to the
whole step: the same value on every rank, of which each rank has the gradient for its own terms. So whatever is computed
of such a value is right on any number of ranks, and a loss needs no denominators of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from losses.math.masking import on_host


class Share:
    """The lists number `rank`, `rank` + `ranks`, ... of a step. This one: all of them, of a single process.

    If the lists cannot be divided evenly, a rank with fewer has lists of padding in their place, so that all ranks have
    tensors of one shape. A share of several ranks overrides the methods below.
    """

    def __init__(self, rank: int = 0, ranks: int = 1, compared: Sequence[int] | None = None):
        """`compared`: the ranks whose texts are negatives of each other, this one among them; None: all."""
        self.rank, self.ranks = rank, ranks
        self.compared = range(ranks) if compared is None else compared

    @property
    def is_whole(self) -> bool:
        """Whether this process computes the whole step."""
        return self.ranks == 1

    def own(self, num_lists: int) -> Tensor:
        """The numbers of this rank's lists, those of padding included, on the host."""
        return torch.arange(-(-num_lists // self.ranks)) * self.ranks + self.rank

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, elementwise. Differentiable."""
        return values

    def least(self, values: Tensor) -> Tensor:
        """The smallest value of all ranks, elementwise, without a gradient."""
        return values

    def most(self, values: Tensor) -> Tensor:
        """The largest value of all ranks, elementwise, without a gradient."""
        return -self.least(-values)

    def gather(self, values: Any) -> Any:
        """Values of own lists [own lists, ...], also ragged, -> of all lists [lists, ...]. Differentiable."""
        return values

    def once(self, value: Tensor) -> Tensor:
        """A value of the model (of rank 0: one without lists does not know it), read in something that every rank
        computes as a whole: its gradient is taken on that rank alone."""
        return value

    def start_gather(self, values: Tensor, sizes: Sequence[int]) -> Callable[[], Tensor]:
        """Gather rows of the ranks of `compared`, which have so many, one rank's after the other's. It goes on in the
        background; call what is returned to get them, [sum of sizes, ...]."""
        return lambda: values

    def start_return(self, gradients: Tensor, sizes: Sequence[int]) -> Callable[[], Tensor]:
        """Send the gradients of rows that `start_gather` gave back to the ranks that they came from, which get the sum
        over all ranks. Call what is returned to get those of own rows."""
        return lambda: gradients

    def whole(self, values: Tensor) -> Tensor:
        """Values of own lists -> of all lists, without a gradient. What the batch has is known on every rank, and is
        kept on the host beside its own part (`with_whole`): then nothing is gathered."""
        if self.is_whole:
            return values
        known: Tensor | None = getattr(values, "of_all_lists", None)
        return self.gather(values.detach()) if known is None else known

    def fraction(self, total: Tensor, count: Tensor) -> Tensor:
        """The sum of `total` over the ranks, divided by that of `count` (at least 1), a number: scalars."""
        sums = self.sum(torch.stack([total, count.to(total.dtype)]))
        return sums[0] / sums[1].detach().clamp(min=1)


ALONE = Share()


def with_whole(own: Tensor, whole: Tensor) -> Tensor:
    """Let `own`, a rank's part of the values `whole` of all lists, remember them (`Share.whole`)."""
    remembering: Any = own
    remembering.of_all_lists = whole
    return own


def host_values(values: Tensor, share: Share) -> Tensor:
    """The values of all lists, on the host."""
    return on_host(share.whole(values))


def mean_over_lists(values: Tensor, valid: Tensor, weights: Tensor | None = None, share: Share = ALONE) -> Tensor:
    """Return the sum of weight * value over the valid lists of all ranks, divided by their number; 0 if no list is
    valid.

    The sum is not divided by the sum of the weights: so lists of small weight make a small step, and a list's gradient
    does not depend on the weights of others.

    Args:
        values: [...] finite loss per list.
        valid: [...] bool, whether the list is part of the mean.
        weights: [...] or None for 1.
        share: which lists these are; by default all.
    """
    weighted = values if weights is None else values * weights.to(values.dtype)
    return share.fraction(weighted.where(valid, torch.zeros_like(weighted)).sum(), valid.sum())
