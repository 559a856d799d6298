"""Tables as aligned plain text, and warnings about a table of rankers by metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Rows = Mapping[str, Mapping[str, float]]  # ranker -> metric -> value

ORACLE = "oracle"  # the row of the best possible order of the candidates: no reranker can be above it

FIRST_STAGES = {"first stage": "the first stage", "BM25": "BM25"}  # row -> in words


def format_table(rows: Rows) -> str:
    """One line per ranker, one right-aligned column per metric, four digits; `-` if a ranker lacks a metric."""
    metrics = list(dict.fromkeys(metric for values in rows.values() for metric in values))
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"  {metric:>7}" for metric in metrics)]
    lines.append("-" * len(lines[0]))
    for name, values in rows.items():
        cells = (f"{values[metric]:.4f}" if metric in values else "-" for metric in metrics)
        columns = (f"  {cell:>{max(7, len(metric))}}" for metric, cell in zip(metrics, cells, strict=True))
        lines.append(f"{name:<{width}}{''.join(columns)}")
    return "\n".join(lines)


def aligned(header: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table of plain text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for place, row in enumerate([header, *cells]):
        rest = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join([f"{row[0]:<{widths[0]}}", *rest]).rstrip()
        if place == 0:
            yield "-" * (sum(widths) + 2 * len(widths) - 2)


def below_start(rows: Rows, metric: str) -> str | None:
    """A warning if training made the model worse (row `after` against `before`), else None."""
    before, after = (rows.get(name, {}).get(metric) for name in ("before", "after"))
    if before is None or after is None or f"{after:.4f}" >= f"{before:.4f}":  # as the table shows them
        return None
    return (
        f"warning: the model is worse than before training ({metric} {after:.4f} < {before:.4f}): keep the model that "
        "it started from, or train with a lower trainer.learning_rate, fewer steps or other data"
    )


def below_first_stage(rows: Rows, metric: str) -> str | None:
    """A warning if the model (row `after` or `model`) ranks worse than the first stage (or BM25), else None. The fused
    score is a remedy only if it ranks better than the first stage."""
    model = rows.get("after") or rows.get("model")
    row = next((row for row in FIRST_STAGES if row in rows), None)
    if model is None or row is None or model[metric] >= rows[row][metric]:
        return None
    first_stage, fused = rows[row][metric], rows.get("fused", {}).get(metric, 0.0)
    helps = f"{fused:.4f}" > f"{first_stage:.4f}"  # as the table shows them
    remedies = ["use the fused score"] if helps else []
    remedies += ["rerank fewer candidates (eval.depth)"] if ORACLE in rows else []
    best = "" if helps else f"{FIRST_STAGES[row]} alone is best; "
    return (
        f"warning: the model ranks worse than {FIRST_STAGES[row]} ({metric} {model[metric]:.4f} < {first_stage:.4f}): "
        f"{best}{', or '.join([*remedies, 'train longer'])}"
    )
