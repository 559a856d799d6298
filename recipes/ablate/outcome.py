"""What an ablation leaves behind: its results in ablation.json, the table, the page."""

from __future__ import annotations

from recipes.ablate.record import Record
from recipes.ablate.search import Search
from runs.report.ablation.page import PAGE, write_ablation_page
from runs.report.ablation.results import ablation_results
from runs.report.ablation.sentences import print_ablation


def update_results(record: Record) -> None:
    """Write ablation.json with the results of the jobs that are finished so far.

    Raises ValueError if files of a run are broken; how the jobs have ended is written then.
    """
    try:
        record.results = ablation_results(record.folder, record.as_dict())
    finally:
        record.write()


def write_outcome(record: Record, search: Search | None) -> None:
    """Write the results of the finished jobs into ablation.json, print them, and write ablation.html."""
    update_results(record)
    plan = record.as_dict()
    print_ablation(plan)
    if search is not None and (best := search.best) is not None:
        configuration, value = best
        print(f"best on dev: {value:.4f} with {' '.join(configuration.overrides)} ({configuration.name})")
    if plan["jobs"]:
        write_ablation_page(record.folder, plan)
        print(f"results: {record.file}   page: {record.folder / PAGE}")
