"""Counts of what a language model wrote: what was kept, what was left out and why, with samples to judge by eye."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from data.hashing import stable_hash

SAMPLES = 20  # texts that are shown
EXAMPLES = 3  # of texts that are left out, for each reason


@dataclass(frozen=True)
class Sample:
    """A text with the id of what it was written about, its number, and where the retriever found that (0: nowhere).
    `raw`: the text before cleaning."""

    kind: str
    name: str
    number: int
    text: str
    raw: str
    rank: int = 0


@dataclass
class Sampler:
    """Keeps the samples with the lowest hashes: which ones depends on the seed alone, not on their order."""

    size: int
    seed: int
    _kept: list[tuple[int, str, int, str, Sample]] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        key = stable_hash("sample", self.seed, sample.kind, sample.name, sample.number)
        entry = (-key, sample.name, sample.number, sample.kind, sample)
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def __iter__(self) -> Iterator[Sample]:
        """The samples, by the names of what they are about."""
        return (entry[-1] for entry in sorted(self._kept, key=lambda entry: entry[1:4]))


@dataclass
class WritingAudit:
    """What became of the texts. `asked`: documents or queries that texts were written about. `left_out` counts those
    without, by reason; `ranks` the kept and lost texts by the rank at which their source was found (0: not)."""

    seed: int
    asked: int = 0
    cut: int = 0  # of them those whose text was too long for the prompt
    left_out: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)  # by kind
    kept: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    ranks: Counter[int] = field(default_factory=Counter)
    samples: Sampler = field(init=False)
    examples: dict[str, Sampler] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.samples = Sampler(SAMPLES, self.seed)

    def drop(self, reason: str, sample: Sample) -> None:
        """Count a text that is left out."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, Sampler(EXAMPLES, self.seed)).add(sample)

    def keep(self, sample: Sample) -> None:
        """Count a text that is kept."""
        self.kept[sample.kind] += 1
        self.samples.add(sample)

    def look_up(self, rank: int) -> None:
        """Count the rank of a source."""
        self.ranks[rank] += 1

    @property
    def found(self) -> int:
        """How many texts passed the round trip."""
        return sum(count for rank, count in self.ranks.items() if rank)

    @property
    def share_kept(self) -> float:
        """The share of the texts that are kept."""
        return sum(self.kept.values()) / max(1, sum(self.written.values()))
