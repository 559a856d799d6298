"""What an ablation leaves behind: its results in ablation.json, the table, the page."""

from __future__ import annotations

from recipes.ablate.record import Record
from recipes.ablate.search import Search


def write_outcome(record: Record, search: Search | None) -> None:
    """Write ablation.json and print the results of the finished jobs."""
    record.write()
    if search is not None and (best := search.best) is not None:
        configuration, value = best
        print(f"best on dev: {value:.4f} with {' '.join(configuration.overrides)} ({configuration.name})")
