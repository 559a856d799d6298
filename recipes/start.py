"""The start of every run: join the process group and open the run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from data.collection import Collection
from data.sampling.mixture import Mixture
from engines.distributed import preemption, process_group
from engines.distributed.heartbeat import OnLostRank
from runs.directory import RunDirectory


def join_ranks(timeout_s: float, on_lost_rank: OnLostRank | None) -> None:
    """Join the process group. From here on a preemption takes effect once all ranks know of it.

    Call it after all code that can fail on one rank only: the other ranks would wait in the next collective.
    """
    preemption.defer_signals()
    process_group.start(timeout_s, on_lost_rank)


def open_run(tree: Mapping[str, Any], data: Collection | Mixture, on_start: Callable[[], None]) -> RunDirectory:
    """Open the run directory of a tree of settings; that of a finished run is not changed. Call it on all ranks.

    Call it after all checks of the settings, because resume=none moves an older run aside. `on_start` is called once
    this process has the directory's lock.
    """
    run = RunDirectory.open(tree)
    on_start()
    if not run.finished:
        run.describe_data(data.name, data.fingerprint)
    return run
