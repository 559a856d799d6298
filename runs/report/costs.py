"""What a ranker costs, and what is known of each stored form, as lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def bytes_in_words(count: float) -> str:
    """3 digits and a unit: "512 bytes", "7.59 MiB", "759 KiB"."""
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.3g} {UNITS[power]}"


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds: "6 min 52 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def cost_lines(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on the cost; none if it was not measured."""
    cost = summary.get("cost")
    if not cost:
        return []
    asked = f"{cost['sampled_queries']:,} queries, one at a time"
    work = "scored" if not cost["index_documents"] else "indexed" if "terms" in cost["index_bytes"] else "encoded"
    where = f"{cost['device']}, {cost['threads']} thread{'s' * (cost['threads'] != 1)}, {cost['dtype']}"
    over = f"{cost['documents_per_query']:,} documents each"
    over = f"the best {over} of an index of {cost['index_documents']:,}" if cost["index_documents"] else over
    held = dict(cost["index_bytes"])
    searched = (summary.get("index") or {}).get("searched")
    if searched and searched["documents"] == cost["index_documents"]:
        held = {searched["index"]: searched["bytes"]}  # the index that was searched, not a sample times its documents
    sizes = ", ".join(f"{name} {bytes_in_words(size)}" for name, size in held.items())
    return [
        f"cost ({where}):",
        f"  a query takes {cost['query_ms_p50']:.3g} ms (median), {cost['query_ms_p95']:.3g} ms (95%): {asked}, {over}",
        f"  {cost['documents_per_s']:,.3g} documents {work} per second ({cost['sampled_documents']:,} measured)",
        f"  peak memory {bytes_in_words(cost['peak_memory_bytes'])}: {cost['memory']}",
        *([f"  index: {sizes}"] if sizes else []),
    ]


def index_lines(summary: Mapping[str, Any]) -> list[str]:
    """A sentence on the index that was searched, if it counts what it holds."""
    found = (summary.get("index") or {}).get("searched")
    if not found:
        return []
    line = f"{found['index']} index of {found['documents']:,} documents: {bytes_in_words(found['bytes'])}"
    if "document_nonzeros" in found:  # of sparse embeddings
        line += (
            f"; nonzeros: {found['document_nonzeros']:,.1f} of a document, {found['query_nonzeros']:,.1f} of a query; "
            f"products of a query and a document (FLOPS): {found['products']:,.3g}"
        )
    return [line]


def form_table(summary: Mapping[str, Any]) -> list[str]:
    """The chosen metric and the bytes of the index by dimension (rows) and precision (columns); none if only one form
    was measured."""
    index, metric = summary.get("index"), summary["metric"]
    if not index or len(index["bytes"]) < 2:
        return []
    values = summary["metrics"]["model"]
    cells: dict[int, dict[str, str]] = {}
    for name, size in index["bytes"].items():
        first, _, second = name.partition("/")
        is_cut = first.startswith("dim")
        dim = int(first[3:]) if is_cut else index["dimension"]
        precision = second or ("fp32" if is_cut else first)
        value = values[metric if name == "fp32" else f"{metric}/{name}"]
        cells.setdefault(dim, {})[precision] = f"{value:.4f}  {bytes_in_words(size)}"
    columns = list(dict.fromkeys(precision for row in cells.values() for precision in row))
    rows = [["dimension", *columns]] + [[str(dim), *(row[name] for name in columns)] for dim, row in cells.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["   ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    part = " (partial)" if summary.get("partial") else ""
    return [
        f"{metric} of the model{part}, and bytes of the index of {index['documents']:,} documents, by stored form:",
        lines[0],
        "-" * len(lines[0]),
        *lines[1:],
    ]
