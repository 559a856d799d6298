"""A depth sweep as a table and as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.significance import Interval, PairedTest

HEADER = ("depth", "mean", "95% interval", "vs first stage (depth 0)", "vs best shallower depth")


def lines_of_sweep(name: str, sweep: Mapping[str, Any]) -> list[str]:
    """The lines to print: a table by depth, then the sentences."""
    rows = [(HEADER[0], sweep["metric"], *HEADER[2:]), *rows_of_sweep(sweep)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return [f"{sweep['metric']} by depth of reranking, {name}:", *lines, *sentences(sweep)]


def sentences(sweep: Mapping[str, Any]) -> list[str]:
    """Which depth is enough, from which depth on reranking hurts, and what the p-values are corrected for."""
    compared = len(sweep["depths"]) * (len(sweep["depths"]) - 1) // 2
    about = f"(p in the table with Holm's correction for all {compared} pairs of depths)" if compared > 1 else ""
    return [line for line in (_about_enough(sweep), _about_hurting(sweep), about) if line]


def rows_of_sweep(sweep: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of each depth, below HEADER."""
    for each in sweep["depths"]:
        interval = Interval(**each["interval"])
        first, best = each["vs_first_stage"], each["vs_best_shallower"]
        yield (
            str(each["depth"]),
            f"{interval.mean:.4f}",
            f"[{interval.low:.4f}, {interval.high:.4f}]",
            str(PairedTest(**first)) if first else "",
            f"{each['best_shallower']}: {PairedTest(**best)}" if best else "",
        )


def _about_enough(sweep: Mapping[str, Any]) -> str:
    by_depth = {each["depth"]: each for each in sweep["depths"]}
    metric, enough, best = sweep["metric"], by_depth[sweep["enough"]], by_depth[sweep["best"]]
    value, highest = enough["interval"]["mean"], best["interval"]["mean"]
    if enough is best:
        told = f"it is the best, {metric} {highest:.4f}"
    else:
        told = (
            f"{metric} {value:.4f} is tied with the best, {highest:.4f} at depth {best['depth']} "
            f"({PairedTest(**enough['vs_best'])}, without correction)"
        )
    depth = "0 (the first stage, not reranked)" if enough["depth"] == 0 else str(enough["depth"])
    return f"depth {depth} is enough, as far as {sweep['queries']:,} queries tell: {told}"


def _about_hurting(sweep: Mapping[str, Any]) -> str:
    first = sweep["hurts_from"]
    if first is None:
        return "hurts at no depth: there is none from which on the order is significantly worse than at a shallower one"
    each = next(each for each in sweep["depths"] if each["depth"] == first)
    test, shallower = PairedTest(**each["vs_best_shallower"]), each["best_shallower"]
    than = "the first stage" if shallower == 0 else f"depth {shallower}"
    last = sweep["depths"][-1]["depth"]
    deeper = f" and every deeper one that was measured (to {last})" if last > first else ""
    return f"hurts from depth {first}: this depth{deeper} is significantly worse than {than} ({test} at depth {first})"
