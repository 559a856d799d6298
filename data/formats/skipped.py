"""The rows that cannot be read: they stop the reading, or are left out and noted (data.on_error)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from data.formats.row_error import RowError
from data.option_names import in_node

logger = logging.getLogger(__name__)

ON_ERROR = ("stop", "skip")
Row = TypeVar("Row")


def check_on_error(value: str) -> None:
    """Raise ValueError if it is no value of data.on_error."""
    if value not in ON_ERROR:
        raise ValueError(f"data.on_error={value} must be one of {', '.join(ON_ERROR)}")


@dataclass
class SkippedRows:
    """The rows that are left out, each as {"where", "error"}. With on_error="stop" there are none, and errors name the
    option; None: there is no such option."""

    on_error: str | None = None
    rows: list[dict[str, str]] = field(default_factory=list)

    @property
    def skips(self) -> bool:
        """Whether rows may be left out."""
        return self.on_error == "skip"

    def leave_out(self, where: str, error: ValueError, *, is_of_columns: bool = False) -> None:
        """Note a row that has an error. Raises this error if rows may not be left out, with the option that leaves it
        out unless it `is_of_columns`, which all rows have."""
        if not self.skips:
            raise error if is_of_columns else self.named(error)
        self.rows.append({"where": where, "error": str(error).removeprefix(f"{where}: ")})

    def named(self, error: ValueError) -> ValueError:
        """The error of a row with the option that leaves it out, if there is such."""
        hint = f" ({in_node('data.on_error')}=skip leaves such rows out)"
        if self.on_error is None or str(error).endswith(hint):
            return error
        text = f"{error}{hint}"
        return RowError(error.where, text) if isinstance(error, RowError) else ValueError(text)

    @property
    def first(self) -> str:
        return f"{self.rows[0]['where']}: {self.rows[0]['error']}" if self.rows else ""

    def announce(self, name: str) -> None:
        """Say how many rows are left out, and why the first."""
        if self.rows:
            logger.warning(
                "%s: %d row%s left out (%s=skip; listed in skipped.jsonl of a run, in "
                "output=FILE of evaluate.py); the first: %s",
                name,
                len(self.rows),
                " is" if len(self.rows) == 1 else "s are",
                in_node("data.on_error"),
                self.first,
            )


def readable(rows: Iterator[Row], skipped: SkippedRows) -> Iterator[Row]:
    """The rows that can be read. An iterator that raises `RowError` goes on with the next row; after any other error
    it would not, so none is left out then."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except RowError as error:
            skipped.leave_out(error.where, error)
        else:
            yield row
