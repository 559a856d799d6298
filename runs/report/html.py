"""Write report.html, one file that shows a run and can be opened offline."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from runs.report.charts import Points, draw
from runs.report.content import STORED, form_in_words, remarks, result_rows, stage_rows
from runs.report.costs import duration
from runs.report.other_sets import notes_on_other_sets, rows_of_other_sets
from runs.report.table import ORACLE

CURVES = {  # name in metrics.jsonl -> title, of the lines of split "train"
    "reward_mean": "Reward (mean over sampled rankings)",
    "loss": "Loss",
    "grad_norm": "Gradient norm, before clipping",
    "learning_rate": "Learning rate",
    "kl": "KL to the reference (nats per position)",
    "entropy": "Entropy of the policy (nats per position)",
    "frac_reward_zero_std": "Share of lists whose rewards are all equal",
    "solved_lists": "Lists whose rewards were all equal when they were drawn",
    "replaced_lists": "Lists of these that fresh ones have replaced",
    "clip_fraction": "Share of ratios clipped",
}
STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --dim: #59636e; --line: #d8dee4; --page: #fff; --accent: #0b62c4;
  --good: #1a7f37; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa4af; --line: #373e47; --page: #12161c;
  --accent: #6cb2ff; --good: #56d364; --bad: #ff8a80 } }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--page); max-width: 66rem; margin: 2.5rem auto; padding: 0 1.25rem; overflow-wrap: anywhere }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem }
p.lead { color: var(--dim); margin: .25rem 0 0 } .warning { color: var(--bad) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .table { overflow-x: auto }
th, td { padding: .35rem .9rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--page) }
th, td { overflow-wrap: normal; white-space: nowrap } th { font-weight: 600; color: var(--dim) }
@media (max-width: 40rem) { th, td { padding: .35rem .6rem }
  th:first-child, td:first-child { min-width: 6.5rem; max-width: 8rem; white-space: normal; overflow-wrap: anywhere } }
td.top { font-weight: 650; color: var(--accent) } .bound td { color: var(--dim) }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.25rem }
figure { margin: 0 } figure img { width: 100% } figcaption { font-size: .9rem; color: var(--dim) }
.query { border-top: 1px solid var(--line); padding: .75rem 0 }
.query ol { list-style: none; padding: 0; margin: .4rem 0 }
.query li { margin: .35rem 0; font-size: .92rem } .query b { font-weight: 600 }
.rank { display: inline-block; min-width: 11.5rem; color: var(--dim); font-variant-numeric: tabular-nums }
.up { color: var(--good) } .down { color: var(--bad) } .relevant { color: var(--good); font-weight: 600 }
.findings td, .findings th { text-align: left; vertical-align: top; white-space: normal }
.findings td:first-child { white-space: nowrap } .error { color: var(--bad); font-weight: 650 }
.findings code { display: block; font-size: .82rem; color: var(--dim); overflow-wrap: anywhere }
.dense td:not(:first-child), .dense th:not(:first-child) { padding: .35rem .4rem }
.settings td { text-align: left; font: .85rem ui-monospace, monospace; padding: .15rem .9rem .15rem 0; border: 0;
  overflow-wrap: anywhere; white-space: normal }
summary { cursor: pointer; color: var(--accent) }
"""


def write_report(run_dir: Path, summary: Mapping[str, Any]) -> Path:
    """Write `run_dir/report.html` from the content of summary.json, metrics.jsonl and config.yaml, and of queries.json
    (`runs.report.queries.write_queries`) and environment.json if they exist. Returns its path."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8")) or {}
    name = html.escape(str(config.get("run_name") or run_dir.name))
    body = [
        f'<h1>{name}</h1><p class="lead">{_lead(summary)}</p>',
        _results(summary),
        _other_sets(summary),
        _stages(summary),
        _curves(lines, summary),
        _queries(_read_json(run_dir / "queries.json")),
        _settings("Settings", config),
        _settings("Environment", _read_json(run_dir / "environment.json")),
    ]
    file = run_dir / "report.html"
    file.write_text(page_of(name, body), encoding="utf-8")
    return file


def page_of(title: str, body: Iterable[str], head: str = "") -> str:
    """A page in the style of all reports, from parts that are HTML, as its `title` is. `head`: more of its head."""
    own = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    head, content = f"<head>{own}<style>{STYLE}</style>{head}</head>", "\n".join(body)
    return f'<!doctype html>\n<html lang="en">{head}\n<body><main>{content}</main></body></html>\n'


def _lead(summary: Mapping[str, Any]) -> str:
    facts = [
        f"{summary['steps']:,} steps" if "steps" in summary else "",
        f"{summary['epochs']:.3g} epochs" if summary.get("epochs") else "",
        duration(summary["seconds"]) if "seconds" in summary else "",
        f"{summary['rows_per_s']:,.1f} rows/s" if summary.get("rows_per_s") else "",
        f"peak memory {summary['peak_memory_bytes'] / 2**30:.1f} GiB" if summary.get("peak_memory_bytes") else "",
        f"engine {summary['engine']}" if "engine" in summary else "",
        f"{summary['world_size']} process{'es' * (summary['world_size'] > 1)}" if "world_size" in summary else "",
    ]
    return html.escape(" · ".join(filter(None, facts)))


def _results(summary: Mapping[str, Any]) -> str:
    rows = result_rows(summary)
    metrics = list(dict.fromkeys(metric for values in rows.values() for metric in values))
    top = {metric: max(v[metric] for name, v in rows.items() if metric in v and name != ORACLE) for metric in metrics}
    lines = []
    for name, values in rows.items():
        cells = [_cell(values.get(metric), name != ORACLE and values.get(metric) == top[metric]) for metric in metrics]
        lines.append(f"<tr{' class=bound' if name == ORACLE else ''}><td>{name}</td>{''.join(cells)}</tr>\n")
    header = "".join(f"<th>{html.escape(metric)}</th>" for metric in metrics)
    notes = "".join(
        f'<p class="{"warning" if remark.startswith("warning") else "lead"}">{html.escape(remark)}</p>'
        for remark in remarks(summary)
    )
    title = "Test pairs" if summary.get("test_pairs") else "Test queries"
    return f"<h2>{title}</h2>\n{table_of(f'<tr><th></th>{header}</tr>', lines)}{notes}"


def table_of(header: str, rows: Iterable[str], style: str = "results") -> str:
    """A table that scrolls sideways on a narrow screen (by keyboard too), so that the page does not."""
    return f'<div class="table" tabindex="0"><table class="{style}">{header}\n{"".join(rows)}</table></div>'


def _cell(value: float | None, is_top: bool) -> str:
    return "<td></td>" if value is None else f'<td class="{"top" if is_top else ""}">{value:.4f}</td>'


def _other_sets(summary: Mapping[str, Any]) -> str:
    """A table of the data sets of `test_suite`; empty if there are none."""
    titles, *rows = rows_of_other_sets(summary)
    if not rows:
        return ""
    notes = "".join(f'<p class="lead">{html.escape(note)}</p>' for note in notes_on_other_sets(summary))
    return f"<h2>Other data sets</h2>\n{_plain_table(titles, rows)}{notes}"


def _plain_table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    lines = [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows]
    return table_of(f"<tr>{header}</tr>", lines)


def _stages(summary: Mapping[str, Any]) -> str:
    """A table of the stages; empty if there are fewer than two."""
    titles, *rows = stage_rows(summary)
    if not rows:
        return ""
    return f"<h2>Stages</h2>\n{_plain_table(titles, rows)}"


def _curves(lines: list[dict[str, Any]], summary: Mapping[str, Any]) -> str:
    figures = []
    if dev := series_of(lines, "dev", summary["metric"]):
        best = max((point for points in dev.values() for point in points), key=lambda point: point[1])[0]
        figures.append(draw(f"Dev {summary['metric']} (dotted: the best)", dev, best=best, dots=True))
    names = dict.fromkeys(
        (line["split"], name) for line in lines for name in line
    )  # (split, metric), in order of appearance
    stored = [name for split, name in names if split == "dev" and name.startswith(summary["metric"] + STORED)]
    parts = {name: f"Loss, {name.partition('/')[2]}" for split, name in names if name.startswith("loss/")}
    for name in stored:
        if dev := series_of(lines, "dev", name):
            form = form_in_words(name.partition(STORED)[2])
            figures.append(draw(f"Dev {summary['metric']}, {form}", dev, dots=True))
    titles = CURVES | parts
    if has_values(lines, "reward_mean"):
        titles["loss"] = "Loss (of a policy: zero in value at ratio 1, read the reward)"
    for name, title in titles.items():
        if name == "clip_fraction" and not has_values(lines, name):
            continue  # with one update per batch no ratio can be clipped
        if found := series_of(lines, "train", name):
            figures.append(draw(title, found, smooth=name != "learning_rate"))
    return f'<h2>Training</h2>\n<div class="curves">{"".join(figures)}</div>' if figures else ""


def has_values(lines: list[dict[str, Any]], name: str) -> bool:
    """Whether any value of the metric is not zero."""
    return any(line.get(name) for line in lines)


def series_of(lines: list[dict[str, Any]], split: str, name: str) -> dict[str, Points]:
    """The points of each stage ("" in a run without stages); empty if there are fewer than two points in all."""
    parts: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        if line["split"] == split and line.get(name) is not None:
            parts.setdefault(line.get("stage", ""), []).append((line["step"], line[name]))
    return dict(parts) if sum(map(len, parts.values())) > 1 else {}


def _queries(queries: Mapping[str, Any] | None) -> str:
    if not queries:
        return ""
    metric = html.escape(queries["metric"])
    parts = [
        f"<h2>{title}</h2>{''.join(_query(query, metric) for query in queries[key])}"
        for key, title in (("best", "Queries it helped most"), ("worst", "Queries it harmed most"))
        if queries[key]
    ]
    return "\n".join(parts)


def _query(query: Mapping[str, Any], metric: str) -> str:
    name = "first_stage" if "first_stage" in query else "before"
    first = query[name]
    direction = "up" if query["after"] > first else "down"
    items = "".join(map(_document, query["documents"]))
    return (
        f'<div class="query"><b>{html.escape(query["text"])}</b><br>{metric}, {name.replace("_", " ")} {first:.3f} → '
        f'after <span class="{direction}">{query["after"]:.3f}</span><ol>{items}</ol></div>'
    )


def _document(document: Mapping[str, Any]) -> str:
    first_stage = f", first stage {document['first_stage_rank'] or 'none'}" if "first_stage_rank" in document else ""
    ranks = f"rank {document['rank']}{first_stage}"
    grade = f'<span class="relevant">grade {document["grade"]}</span> ' if document["grade"] > 0 else ""
    return f'<li><span class="rank">{ranks}</span> {grade}{html.escape(document["text"])}</li>'


def _settings(title: str, node: Mapping[str, Any] | None) -> str:
    if not node:
        return ""
    rows = [f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in _flat(node)]
    return f"<h2>{title}</h2><details><summary>show all</summary>{table_of('', rows, 'settings')}</details>"


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "null" if value is None else str(value)


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
