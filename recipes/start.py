"""How every run starts: its processes meet, and its directory is opened or found finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from data.collection import Collection
from data.sampling.mixture import Mixture
from engines.distributed import preemption, process_group
from engines.distributed.heartbeat import OnLostRank
from runs.directory import RunDirectory


def join_ranks(timeout_s: float, on_lost_rank: OnLostRank | None) -> None:
    """Join the process group. From here on a preemption waits until all ranks know of it.

    Call it after everything that can fail on one rank alone: the others would wait in the next collective.
    """
    preemption.defer_signals()
    process_group.start(timeout_s, on_lost_rank)


def open_run(tree: Mapping[str, Any], data: Collection | Mixture, on_start: Callable[[], None]) -> RunDirectory:
    """The run directory of a tree of settings, which a finished run leaves as it is. Call on all ranks.

    Call it after every check of the settings: resume=none moves an older run aside. `on_start` is called once the
    directory belongs to this process.
    """
    run = RunDirectory.open(tree)
    on_start()
    if not run.finished:
        run.describe_data(data.name, data.fingerprint)
    return run
