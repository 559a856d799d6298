"""What was read of a data set to be inspected, in one form for all formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from data.formats.columns import ListRecord
from data.inspection.finding import Finding

Item = TypeVar("Item")


@dataclass(frozen=True)
class Limits:
    """The most that is looked at, which bounds time and memory."""

    rows: int = 200_000  # rows of lists, or documents of a corpus whose texts are kept
    characters: int = 2**28  # of all texts that are kept
    scanned: int = 10  # a corpus is read up to so many times `rows`
    judgements: int = 2_000_000
    tokenised: int = 1_000  # rows of lists whose texts are counted in tokens
    compared: int = 20_000  # documents among which near-duplicates are searched
    built: int = 50_000  # documents up to which the data are prepared as for training


class Text(NamedTuple):
    """A text and the place where it stands."""

    where: str
    text: str


class Judgement(NamedTuple):
    """One document of a query with its label. `kind`: of the rows (`data.formats.columns`), or "qrels".

    `group` is the list that it belongs to: judgements of one group are of one query. None: a teacher's list, whose
    documents have scores and no labels.
    """

    where: str
    split: str
    group: str
    query: str
    document: str
    label: float | None
    kind: str


@dataclass(frozen=True)
class Content:
    """What was read. Queries (by split) and documents are keyed by id, in data without ids by their text.

    `records` are rows in the form of data=file: of data with ids a few, made from their judgements. `degrees` says why
    the labels of a split are degrees of similarity; of other splits it has nothing.
    """

    name: str
    format: str
    reason: str
    has_ids: bool
    queries: Mapping[str, Mapping[str, Text]]
    documents: Mapping[str, Text]
    judgements: Sequence[Judgement]
    records: Sequence[ListRecord]
    size: str  # "20 rows, positive pairs"
    sampled: tuple[str, ...] = ()  # what was not read, in words
    findings: tuple[Finding, ...] = ()  # what only reading shows
    degrees: Mapping[str, str] = field(default_factory=dict)
    judged_splits: tuple[str, ...] = ()  # the splits that have judgements or rows
    skips: bool = False  # whether training leaves out what it cannot use (data.on_error=skip)

    @property
    def is_complete(self) -> bool:
        """Whether all of the data was read."""
        return not self.sampled

    def groups(self) -> Iterator[list[Judgement]]:
        """The judgements of each list of each split."""
        found: dict[tuple[str, str], list[Judgement]] = {}
        for judgement in self.judgements:
            found.setdefault((judgement.split, judgement.group), []).append(judgement)
        yield from found.values()

    def labels(self) -> Iterator[tuple[str, dict[str, float | None]]]:
        """The split of each list and the label of each of its documents, the highest of several as in training."""
        for group in self.groups():
            found: dict[str, float | None] = {}
            for judgement in group:
                other = found.setdefault(judgement.document, judgement.label)
                if judgement.label is not None:
                    found[judgement.document] = max(judgement.label, judgement.label if other is None else other)
            yield group[0].split, found

    def query_texts(self) -> Iterator[Text]:
        """The queries of all splits."""
        for split in self.queries.values():
            yield from split.values()


class EvenSample(Generic[Item]):
    """Keeps at most `limit` of the items that are added, of at most `size` in all, spread evenly: each 2^n-th, the same
    every time.

    >>> sample = EvenSample(limit=4, size=100)
    >>> for number in range(10):
    ...     sample.add(number, size=1)
    >>> sample.kept
    [0, 4, 8]
    """

    def __init__(self, limit: int, size: int) -> None:
        self.limit, self.size = limit, size
        self._step, self._seen, self._held = 1, 0, 0
        self._items: list[tuple[Item, int]] = []

    @property
    def kept(self) -> list[Item]:
        return [item for item, _ in self._items]

    def add(self, item: Item, size: int) -> None:
        if self._seen % self._step == 0:
            self._items.append((item, size))
            self._held += size
            while len(self._items) > 1 and (len(self._items) > self.limit or self._held > self.size):
                self._items, self._step = self._items[::2], self._step * 2
                self._held = sum(own for _, own in self._items)
        self._seen += 1


def spread_evenly(items: Sequence[Any], limit: int) -> Sequence[Any]:
    """Some of the items, at most `limit`, at equal distances."""
    return items[:: max(1, -(-len(items) // limit))]
