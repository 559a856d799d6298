"""Rows as tools write them, made plain: nested rows, the index columns of pandas, cells without a value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

# How pandas and R name the column of row numbers: in csv, read again from csv, in parquet.
INDEX = re.compile(r"|Unnamed: \d+(\.\d+)?|__index_level_\d+__")
NUMBER = re.compile(r"|-?\d+(\.\d+)?")


class DecimalComma(str):
    """A cell like "0,5" of a file where the comma is the decimal mark. As a text it is what it is."""

    PATTERN = re.compile(r"\s*[+-]?(\d{1,3}(\.\d{3})+|\d*),\d+([eE][+-]?\d+)?\s*")

    def __float__(self) -> float:
        return float(self.replace(".", "").replace(",", "."))


def plain_row(row: Mapping[str, Any], named: Container[str], is_known: Callable[[str], bool]) -> dict[str, Any]:
    """The row with the columns of nested rows as its own, without row numbers, and with None for NaN.

    `named` are columns that the user has named, which stay as they are; `is_known` says whether the name of a column is
    recognised.
    """
    plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    first = next(iter(plain), None)  # a column without a name before all others is an index, whatever it holds
    plain = {n: value for n, value in plain.items() if n in named or not (n == first == "" or _is_index(n, value))}
    unknown = [name for name in plain if name not in named and not is_known(name)]
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        nested = _nested(name, value) if name in unknown else {}
        holds_fields = any(is_known(inner) or inner in named for inner in nested)
        is_row = nested and (holds_fields or len(unknown) == len(plain) == 1) and not nested.keys() & plain.keys()
        flat.update(nested if is_row else {name: value})
    return flat if flat.keys() == plain.keys() else plain_row(flat, named, is_known)


def _nested(name: str, value: Any) -> dict[str, Any]:
    """The columns of a nested row: an object, or a "set" of texts that mean the same, of which the first is taken as
    the query."""
    if isinstance(value, Mapping):
        return {str(inner): cell for inner, cell in value.items()}
    is_set = name == "set" and isinstance(value, list) and len(value) > 1
    return {"query": value[0], "positive": value[1:]} if is_set else {}


def _is_index(name: str, value: Any) -> bool:
    """Whether a cell is a row number. One without a value is none either: of a comma at the end of each line."""
    return INDEX.fullmatch(name) is not None and NUMBER.fullmatch(str("" if value is None else value)) is not None
