"""The error of one row of a file."""

from __future__ import annotations


class RowError(ValueError):
    """What is wrong with one row, in a message that starts with its place. The rows after it can be read."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        return RowError, (self.where, str(self))  # another process may read the file
