"""Rankers by metrics, as aligned plain text."""

from __future__ import annotations

from collections.abc import Mapping

Rows = Mapping[str, Mapping[str, float]]  # ranker -> metric -> value


def print_table(rows: Rows, metric: str | None = None) -> None:
    """Print `format_table`, and the warning of `below_first_stage` for `metric`, if it applies."""
    print(format_table(rows))
    if metric is not None and (warning := below_first_stage(rows, metric)):
        print(warning)


def format_table(rows: Rows) -> str:
    """One line per ranker, one right-aligned column per metric, four digits; `-` where a ranker lacks a metric."""
    metrics = list(dict.fromkeys(metric for values in rows.values() for metric in values))
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"  {metric:>7}" for metric in metrics)]
    lines.append("-" * len(lines[0]))
    for name, values in rows.items():
        cells = [f"{values[metric]:.4f}" if metric in values else "-" for metric in metrics]
        lines.append(
            f"{name:<{width}}"
            + "".join(f"  {cell:>{max(7, len(metric))}}" for cell, metric in zip(cells, metrics, strict=True))
        )
    return "\n".join(lines)


def below_first_stage(rows: Rows, metric: str) -> str | None:
    """A warning where the model (`after`, else `model`) ranks worse than the first stage that it reorders."""
    model = rows.get("after") or rows.get("model")
    first_stage = rows.get("first stage")
    if model is None or first_stage is None or model[metric] >= first_stage[metric]:
        return None
    return (
        f"warning: the model ranks worse than the first stage ({metric} {model[metric]:.4f} < "
        f"{first_stage[metric]:.4f}): use the first stage or the fused score, or rerank fewer candidates (eval.depth)"
    )
