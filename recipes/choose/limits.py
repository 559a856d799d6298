"""What a model can be limited by, and what it can be cheap in: the measured values, with their names and units."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

NOT_KNOWN = "not known"
KILO = 1000


def number(value: float) -> str:
    """A number of any size as a reader expects it.

    >>> [number(value) for value in (22713216, 384, 12.345, 0.0312)]
    ['22,713,216', '384', '12.3', '0.031']
    """
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def in_bytes(value: float) -> str:
    """A number of bytes in decimal units.

    >>> [in_bytes(value) for value in (512, 7960000, 2.5e9)]
    ['512 B', '7.96 MB', '2.5 GB']
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < KILO:
            return f"{value:.3g} {unit}"
        value /= KILO
    return f"{value:.3g} TB"


def share(value: float) -> str:
    return f"{value:.1%}"


def milliseconds(value: float) -> str:
    return f"{number(value)} ms"


@dataclass(frozen=True)
class Measure:
    """A value of a model that may be limited. `most`: the limit is the highest that is allowed; else the lowest."""

    words: str  # "its index takes"
    show: Callable[[float], str] = number
    most: bool = True


MEASURES = {
    "quality": Measure("its quality is", "{:.4f}".format, most=False),  # by eval.metric
    "query_ms_p50": Measure("the median query takes", milliseconds),
    "query_ms_p95": Measure("its slowest 5% of queries take at least", milliseconds),
    "documents_per_s": Measure("documents per second:", most=False),
    "peak_memory_bytes": Measure("its peak memory is", in_bytes),
    "index_bytes": Measure("its index takes", in_bytes),
    "memory_bytes": Measure("its peak memory and index together take", in_bytes),
    "parameters": Measure("parameters:"),
    "price": Measure("USD per million tokens:"),
    "dimension": Measure("dimensions:"),
    "vocabulary": Measure("tokens of its vocabulary:"),
    "context": Measure("tokens that it reads at most:", most=False),
    "truncated_documents": Measure("share of documents that it cuts:", share),
    "truncated_queries": Measure("share of queries that it cuts:", share),
    "tokens_per_word": Measure("tokens per word:"),
    "unknown_tokens": Measure("share of unknown tokens:", share),
    "broken_terms": Measure("share of the terms of your documents that it breaks:", share),
}
COSTS = (
    *("query_ms_p50", "query_ms_p95", "documents_per_s"),
    *("peak_memory_bytes", "index_bytes", "memory_bytes", "parameters", "price"),
)
LICENCE = "licence"
FORM = ("quality", "index_bytes", "memory_bytes", "dimension")  # differ between the stored forms of one model


def cost_of(key: str, values: Mapping[str, Any]) -> float | None:
    """A value as a cost: lower is better. What a model does not have (BM25 no price) costs nothing."""
    value: float | None = values.get(key, 0.0)
    if value is None:
        return None
    return value if MEASURES[key].most else -value


def check_limits(limits: Mapping[str, Any]) -> None:
    """Raise ValueError if a limit is not of a measured value, or is none for it."""
    valid = [*MEASURES, LICENCE]
    for key, limit in limits.items():
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"limit.{key} is not measured: {hint}valid: {', '.join(valid)}")
        if key == LICENCE:
            if not isinstance(limit, list | tuple) or not all(isinstance(each, str) for each in limit) or not limit:
                raise ValueError(f"limit.licence={limit}: list the licences that are allowed, [apache-2.0,mit]")
        elif isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ValueError(f"limit.{key}={limit} is not a number")


def broken_limits(limits: Mapping[str, Any], values: Mapping[str, Any], kind: Literal["model", "form"]) -> list[str]:
    """The sentences of the limits that a model does not keep, or a stored form of it.

    A value that is missing does not apply to the model (BM25 has no licence). One that is None is not known, and a
    model of which it is not known does not keep the limit.
    """
    found = []
    for key, limit in limits.items():
        if (key in FORM) != (kind == "form") or key not in values:
            continue
        value = values[key]
        if key == LICENCE:
            found += _licence(value, limit)
        elif value is None:
            found.append(f"{MEASURES[key].words} {NOT_KNOWN}, and limit.{key}={limit} asks for it")
        elif (value > limit) if MEASURES[key].most else (value < limit):
            side = "above" if MEASURES[key].most else "below"
            found.append(f"{MEASURES[key].words} {MEASURES[key].show(value)}, {side} limit.{key}={limit:.12g}")
    return found


def _licence(value: str | None, allowed: Sequence[str]) -> list[str]:
    names = ", ".join(allowed)
    if value is None:
        return [f"its licence is {NOT_KNOWN} (no card or fact says it), and limit.licence allows {names} alone"]
    if value.casefold() in {each.casefold() for each in allowed}:
        return []
    return [f"its licence is {value}, and limit.licence allows {names} alone"]
