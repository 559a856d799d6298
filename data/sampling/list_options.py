"""What a training list is made of, and which lists may share a batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ListOptions:
    """What a training list is made of; its length is `trainer.list_size`.

    A list of length 1 is a relevant document alone (best grade first), for losses with negatives from the batch.
    """

    positives: int = 1  # relevant documents per list, at most: the best grades first
    random_fraction: float = 0.4  # share of the other places for random documents; 0: candidates alone, ragged lists
    hard_depth: int = 30  # the other documents are drawn from the first so many candidates
    no_duplicates: bool = True  # with in-batch negatives: no document of two lists of a batch has the same text

    def __post_init__(self) -> None:
        if self.positives < 1 or self.hard_depth < 1:
            raise ValueError(
                f"data.lists.positives={self.positives} and data.lists.hard_depth={self.hard_depth} must be at least 1"
            )
        if not 0 <= self.random_fraction <= 1:
            raise ValueError(f"data.lists.random_fraction={self.random_fraction} must be in [0, 1]")
