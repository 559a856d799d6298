"""The kinds of measurements, by the name that a setting has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.speed import contrastive, inference, listwise, ours
from benchmarks.speed.setting import Job
from benchmarks.speed.turns import Turns


@dataclass(frozen=True)
class Kind:
    """What a process does: make the texts of a setting, or run one side of it."""

    make_texts: Callable[[Job], dict[str, Any]]
    run: Callable[[Job, Turns], None]


KINDS = {
    "contrastive": Kind(contrastive.make_texts, contrastive.run),
    "listwise": Kind(listwise.make_texts, listwise.run),
    inference.ENCODE: Kind(inference.make_texts, inference.run),
    inference.RERANK: Kind(inference.make_texts, inference.run),
    "ours": Kind(ours.make_texts, ours.run),
}
