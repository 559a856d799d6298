"""What an inspection finds in data: a name, what it means, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]

WIDTH = 100  # characters of a text that are shown
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One finding. An "error" makes training fail, a "warning" makes its result worse or wrong, a "note" is worth
    knowing.

    `name` is the same for every finding of a kind. `examples` are places with what stands there.
    """

    severity: Severity
    name: str
    message: str
    advice: str = ""
    examples: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The lines of a report."""
        yield f"{self.severity}: {self.name}: {self.message}"
        if self.advice:
            yield f"    what to do: {self.advice}"
        yield from (f"    {example}" for example in self.examples)


def first_few(examples: Sequence[str]) -> tuple[str, ...]:
    """The first examples, without those that repeat another."""
    return tuple(dict.fromkeys(examples))[:MAX_EXAMPLES]


def shorten(text: str, width: int = WIDTH) -> str:
    """The text in one line of at most `width` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def skipped_rows(rows: Sequence[Mapping[str, str]]) -> Iterator[Finding]:
    """The finding about rows that cannot be read, each as {"where", "error"}, which data.on_error=skip leaves out."""
    if rows:
        number = len(rows)
        yield Finding(
            "warning",
            "skipped rows",
            f"{counted(number, 'row')} cannot be read and will be left out (data.on_error=skip)",
            "correct the rows, or check that nothing is missed without them",
            first_few([f"{row['where']}: {row['error']}" for row in rows]),
        )


def have(number: int) -> str:
    """The verb after a number of things."""
    return "has" if number == 1 else "have"


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "row"), counted(1200, "query", "queries")
    ('1 row', '1,200 queries')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
