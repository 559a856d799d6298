"""The options of mining negatives, and which scores its margins and bounds refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

SAMPLING = ("top", "random", "quantile")
OUTPUTS = ("triplet", "n_tuple", "labelled_pair", "labelled_list", "run")
CONTENTS = ("texts", "ids")
WINDOW_FACTOR = 10  # documents in the rank window for each negative, by default
DEFAULT_PERCENTAGE = 0.95
MARGINS = ("absolute_margin", "relative_margin", "percentage")
BOUNDS = ("max_score", "min_score")


@dataclass(frozen=True, kw_only=True)
class MineOptions:
    """The options of mining: how many negatives a query gets, which documents may become one, and what is written."""

    num_negatives: int = 5
    range_min: int = 0
    range_max: int | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    percentage: float | Literal["auto"] | None = "auto"
    min_score: float | None = None
    max_score: float | None = None
    sampling: str = "top"
    random_fraction: float = 0.0
    near_duplicate: float | None = 0.8
    corpus_path: str | None = None
    include_positives: bool = False
    output: str = "labelled_list"
    content: str = "texts"
    scores: bool = False
    suspect_margin: float = 0.1
    fusion_weight: float = 0.5
    token_budget: int = 16384

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("sampling", self.sampling, SAMPLING),
            ("output", self.output, OUTPUTS),
            ("content", self.content, CONTENTS),
        ):
            if value not in valid:
                raise ValueError(f"mine.{name}={value} is not a choice: valid: {', '.join(valid)}")
        self._check_numbers()
        self._check_window()
        self._check_content()

    def _check_numbers(self) -> None:
        for name in ("num_negatives", "token_budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"mine.{name}={getattr(self, name)} must be at least 1")
        for name in (*MARGINS, *BOUNDS, "suspect_margin"):
            value = getattr(self, name)
            if value not in (None, "auto") and not math.isfinite(value):
                raise ValueError(f"mine.{name}={value} must be finite, or null for none")
        for name in ("absolute_margin", "relative_margin", "suspect_margin"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"mine.{name}={getattr(self, name)} must be at least 0")
        if self.percentage not in (None, "auto") and not 0 < float(self.percentage) <= 1:
            raise ValueError(f"mine.percentage={self.percentage} must be above 0 and at most 1, auto, or null for none")
        for name in ("random_fraction", "fusion_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"mine.{name}={getattr(self, name)} must be in [0, 1]")
        if self.near_duplicate is not None and not 0 < self.near_duplicate <= 1:
            raise ValueError(f"mine.near_duplicate={self.near_duplicate} must be above 0 and at most 1, or null")
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise ValueError(f"mine.min_score={self.min_score} is above mine.max_score={self.max_score}")

    def _check_window(self) -> None:
        if self.range_min < 0:
            raise ValueError(f"mine.range_min={self.range_min} must be at least 0")
        if self.range_min >= self.window_end:
            raise ValueError(
                f"mine.range_min={self.range_min} must be below mine.range_max={self.window_end}: no rank lies between"
            )
        if self.num_negatives > (size := self.window_end - self.range_min):
            raise ValueError(
                f"mine.num_negatives={self.num_negatives} is more than the {size} ranks from mine.range_min="
                f"{self.range_min} to mine.range_max={self.window_end}: raise mine.range_max"
            )

    def _check_content(self) -> None:
        if self.include_positives and self.output != "run":
            raise ValueError(
                f"mine.include_positives=true is for mine.output=run: {self.output} has the relevant documents anyway"
            )
        if self.corpus_path is not None and (self.content == "ids" or self.output == "run"):
            what = "mine.output=run" if self.output == "run" else "mine.content=ids"
            raise ValueError(
                f"{what} names documents of the data, and mine.corpus_path has others: choose mine.content=texts with "
                "another mine.output"
            )

    @property
    def window_end(self) -> int:
        """The first rank, from 0, that is not in the window."""
        return self.range_min + WINDOW_FACTOR * self.num_negatives if self.range_max is None else self.range_max

    @property
    def used_percentage(self) -> float | None:
        """The share of the positive's score. If it is "auto" a margin takes its place."""
        if self.percentage != "auto":
            return self.percentage
        return DEFAULT_PERCENTAGE if self.absolute_margin is None and self.relative_margin is None else None

    @property
    def num_random(self) -> int:
        """The slots of a query that random documents get."""
        return round(self.random_fraction * self.num_negatives)

    def refusals(self, scores: np.ndarray, lowest: np.float32) -> dict[str, np.ndarray]:
        """Which scores (float32 [n]) each filter refuses, given the score of the lowest relevant document.

        The comparisons are those of sentence-transformers' `mine_hard_negatives`, in float32. A share of the positive's
        score is taken of its size, so that it is below the positive for scores below 0 as well.
        """
        found: dict[str, np.ndarray] = {}
        if self.absolute_margin is not None:
            found["absolute_margin"] = scores + np.float32(self.absolute_margin) > lowest
        shares = {"relative_margin": self.relative_margin}
        shares["percentage"] = None if self.used_percentage is None else 1 - self.used_percentage
        for name, share in shares.items():
            if share is not None:
                found[name] = scores > lowest - np.abs(lowest) * np.float32(share)
        if self.max_score is not None:
            found["max_score"] = scores > np.float32(self.max_score)
        if self.min_score is not None:
            found["min_score"] = scores < np.float32(self.min_score)
        return found
