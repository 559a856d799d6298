"""Write one page on several runs: results, curves, wins and losses by query, settings that differ, cost.

  python launch/report.py outputs/a outputs/b --output compared.html         two runs, or twenty
  python launch/report.py outputs/RUN --output run.html                      one run, with its stages
  python launch/report.py outputs/RUN/stages/* --output stages.html          its stages as runs of their own
  python launch/report.py outputs/ABLATION --output ablation.html            all jobs of an ablation
  python launch/report.py old.json new.json --output compared.html           results of launch/evaluate.py
  python launch/report.py outputs/a outputs/b --output compared.html --wandb    and a report in W&B

The page is one file without links: it opens offline, on a phone, in light and dark. The first run is the one that the
others are tested against. Unfinished and failed runs are shown with what they have.
"""

from __future__ import annotations

try:
    import argparse
    from collections.abc import Mapping, Sequence
    from dataclasses import replace
    from pathlib import Path
    from typing import TYPE_CHECKING, Any

    from launch.cli.arguments import Parser, run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from runs.report.comparison.content import Comparison
    from runs.report.comparison.selection import ShownRun


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    file = Path(options.output).expanduser()
    check_output(file)
    from runs.report.ablation.page import (  # numpy and torch, once the arguments are known to be right
        ablation_part,
        first_pair,
        plans_of,
    )
    from runs.report.comparison.compare import compare
    from runs.report.comparison.page import page
    from runs.report.comparison.selection import select

    paths = [Path(run).expanduser() for run in options.runs]
    runs, plans = select(paths), plans_of(paths)
    opening = [part for plan in plans for part in ablation_part(plan)]
    comparison = replace(compare(runs, first_pair(plans)), opening=opening)
    if len(paths) == 1 and len(runs) != 1:  # an ablation
        comparison = replace(comparison, title=paths[0].resolve().name)
    write(file, page(comparison))
    for warning in comparison.warnings:
        print(f"warning: {warning}")
    print(f"{comparison.lead}: {file} ({file.stat().st_size / 2**20:.1f} MiB)")
    if options.wandb:
        print(f"W&B Report: {send_to_wandb(comparison, runs, plans)}")


def send_to_wandb(comparison: Comparison, runs: Sequence[ShownRun], plans: Sequence[Mapping[str, Any]]) -> str:
    """Make a W&B Report with the same content. Returns its address."""
    from runs.report.ablation.page import tables_of
    from runs.report.comparison.queries import extremes_table
    from runs.report.wandb_report import save, wandb_report

    queries = [extremes_table(comparison.queries)] if comparison.queries else []
    report = wandb_report(
        [replace(run.stored, name=run.name) for run in runs],
        comparison.title,
        lead=". ".join([comparison.lead, *(f"Warning: {warning}" for warning in comparison.warnings)]),
        results=[*tables_of(plans), *comparison.results, *queries],
        facts=comparison.facts,
    )
    return save(report)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="outputs/RUN, a stage, an ablation, or FILE.json of launch/evaluate.py"
    )
    parser.add_argument("--output", required=True, metavar="FILE.html", help="the page to write")
    parser.add_argument("--wandb", action="store_true", help="also make a W&B Report (needs wandb-workspaces, login)")
    return parser.parse_intermixed_args(arguments)


def write(file: Path, text: str) -> None:
    """Write the page. Raises ValueError, which names the option, if that fails."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--output {file}: it cannot be written ({error.strerror}): choose another folder") from None


def check_output(file: Path) -> None:
    """Raise ValueError, before the time is spent, if the page cannot be written."""
    if file.suffix != ".html":
        raise ValueError(f"--output {file}: give a name that ends in .html")
    if not file.parent.is_dir():
        raise ValueError(f"--output {file}: there is no folder {file.parent}: make it, or name another file")
    if file.is_dir():
        raise ValueError(f"--output {file}: it is a folder: name a file in it")


if __name__ == "__main__":
    run_command(main)
