"""The options of training lists."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLINGS = ("random", "quantile")


@dataclass(frozen=True)
class ListOptions:
    """The contents of a training list. Its length is `trainer.list_size`.

    A list of length 1 has one relevant document (best grade first), for losses with in-batch negatives.
    """

    # Relevant documents per list, at most, the best grades first; None: no limit, relevant candidates are drawn like
    # others (with their grade), but never in the place of the last negative.
    positives: int | None = 1
    # Share of random documents among the others; 0: candidates only, and lists may be shorter.
    random_fraction: float = 0.4
    hard_depth: int = 30  # the other documents are sampled from this number of first candidates
    # How they are sampled from these: random, or quantile (one from each of equal parts of their order by score).
    sampling: str = "random"
    no_duplicates: bool = True  # with in-batch negatives: no document of two lists of a batch has the same text

    def __post_init__(self) -> None:
        if self.positives is not None and self.positives < 1:
            raise ValueError(f"data.lists.positives={self.positives} must be at least 1, or null for no limit")
        if self.hard_depth < 1:
            raise ValueError(f"data.lists.hard_depth={self.hard_depth} must be at least 1")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"data.lists.sampling={self.sampling}: choose {' or '.join(SAMPLINGS)}")
        if not 0 <= self.random_fraction <= 1:
            raise ValueError(f"data.lists.random_fraction={self.random_fraction} must be in [0, 1]")
