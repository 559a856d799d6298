"""A table of rankers by metrics, as aligned plain text."""

from __future__ import annotations

from collections.abc import Mapping

Rows = Mapping[str, Mapping[str, float]]  # ranker -> metric -> value

ORACLE = "oracle"  # the row of the best possible order of the candidates: no reranker can be above it


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


def below_first_stage(rows: Rows, metric: str) -> str | None:
    """A warning if the model (row `after` or `model`) ranks worse than the first stage, else None."""
    model = rows.get("after") or rows.get("model")
    first_stage = rows.get("first stage")
    if model is None or first_stage is None or model[metric] >= first_stage[metric]:
        return None
    fused = rows.get("fused", {})
    remedies = ["use the fused score"] if fused.get(metric, 0.0) > model[metric] else []
    remedies += ["rerank fewer candidates (eval.depth)"] if ORACLE in rows else []
    return (
        f"warning: the model ranks worse than the first stage ({metric} {model[metric]:.4f} < "
        f"{first_stage[metric]:.4f}): {', or '.join([*remedies, 'train longer'])}"
    )
