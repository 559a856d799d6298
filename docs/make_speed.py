"""Writes the figures of docs/speed.md, and its pictures, from docs/speed.json.

    python docs/make_speed.py

The file is made by `python benchmarks/run.py --data SCIFACT --output docs/speed.json`. Questions that it does not
hold are on the page as "not measured". The rest of the page is written by hand.
"""

from __future__ import annotations

import html
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "speed.md"
FIGURES = ROOT / "docs" / "speed.json"
PICTURES = ROOT / "docs" / "assets"
BEGIN = "<!-- Written by `python docs/make_speed.py`; a test compares it. -->\n"
END = "<!-- The end of what docs/make_speed.py writes. -->\n"
SPEED, SHARE = "speed_ratios.svg", "speed_peak.svg"
VERSIONS = ("python", "torch", "transformers", "sentence-transformers")
BUSY = 1.0  # load beside the measured process above which the page says that the cores were not idle
WIDTH, ROW, LABEL, BAR = 720, 34, 330, 300  # pixels of a picture
STYLE = """\
<style>
.bar{fill:#5c6bc0} .other{fill:#b0bac8} .bound{stroke:#c62828;stroke-width:2} text{fill:#263238;font-size:13px;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
@media (prefers-color-scheme: dark){.bar{fill:#8c9eff} .other{fill:#5f6b7a} .bound{stroke:#ff8a80} text{fill:#e3e6ee}}
</style>"""

Entries = Mapping[str, Mapping[str, Any]]


def load() -> Entries:
    """The questions of the file; none if it is not there."""
    entries: Entries = json.loads(FIGURES.read_text())["questions"] if FIGURES.is_file() else {}
    return entries


def page(entries: Entries) -> str:
    """The whole page: what is written by hand, and the figures."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return head + BEGIN + generated(entries) + END + rest.partition(END)[2]


def generated(entries: Entries) -> str:
    """The part of the page that the figures make."""
    parts = [machines(entries), answers(entries)]
    measured = {name: entry for name, entry in entries.items() if entry["pairs"]}
    if compared := {name: entry for name, entry in measured.items() if "rows_per_s" in figures_of(entry)}:
        for file, title in ((SPEED, "Speed, as a multiple of the other side's"), (SHARE, "Share of the matmul peak")):
            parts.append(f"![{title}](assets/{file})\n")
        parts.append(sides(compared))
    return "\n" + "\n".join(parts) + "\n"


def machines(entries: Entries) -> str:
    """Where and when the figures were measured; a line for each machine and commit."""
    lines = []
    for entry in entries.values():
        place, hardware = entry["environment"], entry["environment"]["hardware"]
        versions = ", ".join(f"{name} {place['versions'][name]}" for name in VERSIONS if name in place["versions"])
        revision = (place["git"] or {"revision": "unknown", "dirty": False})["revision"][:12]
        changed = " with changes" if (place["git"] or {}).get("dirty") else ""
        lines.append(
            f"- {hardware['cpu']}, {hardware['cpu_cores']} cores, {place['threads']} threads, "
            f"{hardware['memory_bytes'] / 2**30:.0f} GiB; {versions}; commit {revision}{changed}; "
            f"{place['time'][:10]}; `{place['command']}`"
        )
    if not lines:
        return "Not measured yet.\n"
    busy = [load for entry in entries.values() for pair in entry["pairs"] if (load := load_beside(pair, entry)) > BUSY]
    warning = f"\nOther work was on the cores in {len(busy)} of the pairs.\n" if busy else ""
    return "\n".join(dict.fromkeys(lines)) + "\n" + warning


def load_beside(pair: Mapping[str, Any], entry: Mapping[str, Any]) -> float:
    """The load of the machine before a pair, without that of the measured processes themselves."""
    return float(pair.get("both", {}).get("load", 0.0) - entry["environment"]["threads"])


def answers(entries: Entries) -> str:
    """The table of all questions."""
    from benchmarks.speed.questions import all_questions

    rows = []
    for name, question in all_questions().items():
        entry = entries.get(name, {})
        title, found = entry.get("title", question.title), entry.get("checks", ())
        if not found:
            reason = f"skipped: {entry['skipped']}" if "skipped" in entry else "not measured"
            rows += [[title, each.what, reason, "", each.holds_when, ""] for each in question.checks]
        for each in found:
            verdict = "holds" if each["holds"] else "**does not hold**"
            rows.append([title, each["what"], each["shown"], each["range"], each["holds_when"], verdict])
    return table(["question", "measured", "median", "pairs from, to", "holds when", ""], rows)


def figures_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the first side of the first pair."""
    first: dict[str, Any] = next(iter(entry["pairs"][0].values()))
    return first


def sides_of(entry: Mapping[str, Any]) -> list[str]:
    return [side for side in entry["pairs"][0] if side != "both"]


def median(entry: Mapping[str, Any], side: str, name: str) -> float:
    return statistics.median(pair[side][name] for pair in entry["pairs"])


def sides(entries: Entries) -> str:
    """The table of the medians of each side."""
    rows = []
    for entry in entries.values():
        for side in sides_of(entry):
            names = ("rows_per_s", "tokens_per_s", "share_of_peak", "peak_memory_mib")
            speed, tokens, share, memory = (median(entry, side, name) for name in names)
            rows.append([entry["title"], side, f"{speed:.1f}", f"{tokens:,.0f}", f"{share:.0%}", f"{memory:,.0f} MiB"])
    return table(["question", "side", "rows/s", "tokens/s", "share of the peak", "peak memory"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def pictures(entries: Entries) -> dict[str, str]:
    """The pictures by the name of their file; none if nothing is measured."""
    speeds: list[tuple[str, list[tuple[str, float]], float | None, str]] = []
    shares: list[tuple[str, list[tuple[str, float]], float | None, str]] = []
    for entry in entries.values():
        if not entry["pairs"] or "rows_per_s" not in figures_of(entry):
            continue
        checks = {check["what"]: check for check in entry.get("checks", ())}
        ratio = next((check for what, check in checks.items() if what.startswith("rows/s")), None)
        if ratio is not None:
            speeds.append((entry["title"], [("bar", ratio["value"])], ratio["bound"], ratio["shown"]))
        first, second = (median(entry, side, "share_of_peak") for side in sides_of(entry))
        bound = next((check["bound"] for what, check in checks.items() if what.startswith("share")), None)
        shares.append((entry["title"], [("bar", first), ("other", second)], bound, f"{first:.0%}, {second:.0%}"))
    return {name: bars(rows) for name, rows in ((SPEED, speeds), (SHARE, shares)) if rows}


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]], float | None, str]]) -> str:
    """Horizontal bars as SVG: rows of a label, bars (class, value), a bound that is marked, and what is written beside
    them."""
    largest = max([value for _, values, bound, _ in rows for value in [*(v for _, v in values), bound or 0]])
    height, parts = ROW * len(rows) + 10, []
    for number, (label, values, bound, shown) in enumerate(rows):
        top, thick = 5 + number * ROW, (ROW - 12) / len(values)
        parts.append(f'<text x="{LABEL - 8}" y="{top + 16}" text-anchor="end">{html.escape(label)}</text>')
        for place, (kind, value) in enumerate(values):
            size = f'width="{BAR * value / largest:.1f}" height="{thick:.1f}"'
            parts.append(f'<rect class="{kind}" x="{LABEL}" y="{top + place * thick:.1f}" {size}/>')
        if bound is not None:
            x = LABEL + BAR * bound / largest
            parts.append(f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2}" y2="{top + ROW - 10}"/>')
        parts.append(f'<text x="{LABEL + BAR + 8}" y="{top + 16}">{html.escape(shown)}</text>')
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    return "\n".join([opening, STYLE, *parts, "</svg>\n"])


def main() -> None:
    entries = load()
    PAGE.write_text(page(entries), encoding="utf-8")
    for name in (SPEED, SHARE):
        (PICTURES / name).unlink(missing_ok=True)
    for name, picture in pictures(entries).items():
        (PICTURES / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
