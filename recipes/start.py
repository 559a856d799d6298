"""The start of every run: join the process group, open the run directory and start its logger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data.collection import Collection
from data.sampling.mixture import Mixture
from engines.distributed import preemption, process_group
from engines.distributed.heartbeat import OnLostRank
from recipes.run_config import RunSettings
from runs.directory import RunDirectory
from runs.loggers.logger import Logger
from runs.places import contents_of
from runs.settings_tree import as_tree


def join_ranks(timeout_s: float, on_lost_rank: OnLostRank | None) -> None:
    """Join the process group. From here on a preemption takes effect once all ranks know of it.

    Call it after all code that can fail on one rank only: the other ranks would wait in the next collective.
    """
    preemption.defer_signals()
    process_group.start(timeout_s, on_lost_rank)


def open_run(settings: RunSettings, data: Collection | Mixture, on_start: Callable[[], None]) -> RunDirectory:
    """Open the run directory of these settings; that of a finished run is not changed. Call it on all ranks.

    Call it after all checks of the settings, because resume=none moves an older run aside. `on_start` is called once
    this process has the directory's lock.
    """
    run = RunDirectory.open(as_tree(settings), read_contents=lambda: contents_of(settings))
    on_start()
    if not run.finished:
        run.describe_data(data.name, data.fingerprint, data.skipped, data.made)
    return run


@contextmanager
def tracked(settings: RunSettings, run: RunDirectory) -> Iterator[Logger]:
    """The logger of a run. An error inside, or a preemption, is told to it and raised again."""
    logger = settings.logger.build(run, as_tree(settings))
    try:
        yield logger
    except BaseException as error:
        logger.stop(error)
        raise
