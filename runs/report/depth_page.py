"""Write depth sweeps as a page, one file with pictures that can be opened offline."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.significance import Interval
from runs.report.charts import draw_intervals
from runs.report.depths import HEADER, rows_of_sweep, sentences
from runs.report.html import page_of, table_of


def write_depth_page(title: str, sweeps: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Write a page with a picture and the table of each sweep; it can be opened offline."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for name, sweep in sweeps.items():
        found = [(each["depth"], Interval(**each["interval"])) for each in sweep["depths"]]
        points = [(depth, own.mean, own.low, own.high) for depth, own in found]
        picture = draw_intervals(
            f"{sweep['metric']} by depth of reranking (dashed: the first stage; bars: 95% intervals)", points, "depth"
        )
        said = "".join(
            f'<p class="{"warning" if line.startswith("hurts from") else "lead"}">{html.escape(line)}</p>\n'
            for line in sentences(sweep)
        )
        header = "".join(f"<th>{html.escape(cell)}</th>" for cell in (HEADER[0], sweep["metric"], *HEADER[2:]))
        rows = [
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n"
            for row in rows_of_sweep(sweep)
        ]
        body += [f"<h2>{html.escape(name)}</h2>{said}", f'<div style="max-width: 34rem">{picture}</div>']
        body.append(table_of(f"<tr>{header}</tr>", rows))
    file.write_text(page_of(html.escape(title), body), encoding="utf-8")
