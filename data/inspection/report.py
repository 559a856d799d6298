"""One inspection: its table and its JSON are two views of it (and its page, `runs.report.data_page`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.formats.columns import ListRecord
from data.inspection.finding import Finding, counted, shorten
from data.inspection.measures import RoleMeasures, SplitMeasures, Spread

PICTURED = ("word_counts", "token_counts", "positive_counts", "negative_counts")  # the numbers behind the pictures
COLUMNS = ("", "texts", "empty", "words 5 %", "median", "95 %", "most", "tokens 5 %", "median", "95 %", "most", "cut")


@dataclass(frozen=True)
class Losses:
    """The losses of conf/loss that fit the training lists, and the others by what they lack."""

    gives: Mapping[str, str]  # what training lists give, names of losses.contracts.REQUIREMENTS, in words
    fit: tuple[str, ...]
    others: Mapping[str, tuple[str, ...]]

    def lines(self) -> Iterator[str]:
        given = "; ".join(f"{name} ({what})" for name, what in self.gives.items())
        yield f"training lists give: {given or 'nothing'}"
        yield f"losses that fit: {', '.join(self.fit) or 'none'}"
        for missing, names in self.others.items():
            yield f"losses that do not fit, they need {missing}: {', '.join(names)}"


@dataclass(frozen=True)
class Inspection:
    """All that is said of a data set. `facts` are further lines {what: value}; `losses` is None if training fails
    before it comes to a loss."""

    path: str
    size: str
    format: str
    reason: str
    sampled: tuple[str, ...]
    facts: Mapping[str, str]
    splits: Sequence[SplitMeasures]
    roles: Sequence[RoleMeasures]
    model: str
    max_length: int | None
    losses: Losses | None
    findings: Sequence[Finding]
    records: Sequence[ListRecord]
    said: tuple[str, ...] = ()  # the warnings of reading and of preparing, as training logs them
    seconds: float = 0.0

    @property
    def fails(self) -> bool:
        """Whether training would fail."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The last line of the report."""
        numbers = [(severity, self._number(severity)) for severity in ("error", "warning", "note")]
        found = ", ".join(counted(number, severity) for severity, number in numbers if number) or "nothing found"
        return f"{'training would fail' if self.fails else 'fit for training'}: {found}"

    def _number(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def lines(self) -> list[str]:
        """The report for a terminal."""
        return [
            f"{self.path}: {self.size}",
            f"format: {self.format}{f' ({self.reason})' * bool(self.reason)}",
            *(f"not all was read: {what}" for what in self.sampled),
            *(f"{name}: {value}" for name, value in (*self.facts.items(), *self.judgement_facts())),
            *(f"language of {role.role} texts: {_language(role)}" for role in self.roles),
            *(f"  {line}" for line in self.table()),
            *(self.losses.lines() if self.losses else ()),
            *(line for record in self.records[:2] for line in example(record)),
            *(f"training says: {line}" for line in self.said),
            *(line for finding in self.findings for line in finding.lines()),
            f"result: {self.verdict} ({self.seconds:.1f} s)",
        ]

    def judgement_facts(self) -> Iterator[tuple[str, str]]:
        """The lines on labels, and on positives and negatives per query: what is said, and the values."""
        for split in self.splits:
            if split.label_spread is not None:
                counts = ", ".join(f"{level}: {count}" for level, count in split.labels.items())
                yield f"labels{self._in(split)}", counts or str(split.label_spread)
        for split in self.splits:
            if split.positives is not None:
                yield f"positives per query{self._in(split)}", str(split.positives)
                yield f"negatives per query{self._in(split)}", str(split.negatives)

    def _in(self, split: SplitMeasures) -> str:
        return f" in {split.split}" if len(self.splits) > 1 else ""

    def table(self) -> list[str]:
        """The lengths by role, in aligned columns."""
        rows = [list(COLUMNS), *([role.role, *role_cells(role)] for role in self.roles)]
        rows = rows if any(role.tokens for role in self.roles) else [row[:7] for row in rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]

    def as_json(self) -> dict[str, Any]:
        """The inspection in JSON types."""
        without = {"records", "facts", "splits", "roles", "losses", "findings"}
        plain = {name: value for name, value in vars(self).items() if name not in without}
        return {
            **plain,
            "fails": self.fails,
            "facts": dict(self.facts),
            "splits": [_plain(split) for split in self.splits],
            "roles": [_plain(role) for role in self.roles],
            "losses": None if self.losses is None else asdict(self.losses),
            "findings": [asdict(finding) for finding in self.findings],
        }


def _plain(measures: SplitMeasures | RoleMeasures) -> dict[str, Any]:
    return {name: value for name, value in asdict(measures).items() if name not in PICTURED}


def role_cells(role: RoleMeasures) -> list[str]:
    """The cells of a role's row: numbers of texts, words and tokens, share that is cut."""
    cut = "?" if role.cut_share is None else f"{role.cut_share:.1%}"
    return [f"{role.total:,}", f"{role.num_empty:,}", *_spread(role.words), *_spread(role.tokens), cut]


def _spread(spread: Spread | None) -> list[str]:
    if spread is None:
        return ["-"] * 4
    return [f"{value:,.0f}" for value in (spread.low, spread.median, spread.high, spread.maximum)]


def _language(role: RoleMeasures) -> str:
    scripts = ", ".join(f"{name.capitalize()} {share:.1%}" for name, share in role.scripts.items())
    return f"{role.language} (letters: {scripts})" if scripts else "no letters"


def example(record: ListRecord) -> Iterator[str]:
    """The lines that show a row."""
    prompt = f" (prompt {record.prompt!r})" if record.prompt is not None else ""
    yield f"{record.where}: query{prompt}: {shorten(record.query)}"
    for index, text in enumerate(record.documents[:4]):
        label = f"label {record.labels[index]:g}" if record.labels is not None else "no label"
        score = f", teacher {record.scores[index]:g}" if record.scores is not None else ""
        yield f"    {label}{score}: {shorten(text)}"
    if len(record.documents) > 4:
        yield f"    ... and {len(record.documents) - 4} more"
