"""A search over settings by Optuna: its ranges, its trials on disk, and the jobs that they ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from data.hashing import stable_hash
from recipes.ablate.configurations import Configuration, Job, as_setting
from recipes.ablate.record import FILE
from recipes.ablate.schedule import Outcome

RANGES = ("log", "uniform", "integer", "choice")
JOURNAL = "search.journal"
_RANGE = re.compile(rf"\s*({'|'.join(RANGES)})\s*\((.*)\)\s*", re.DOTALL)
_SPACE, _SEEDS = "space", "seeds"  # the user attributes of the study that hold its ranges and its seeds


def parse_range(key: str, text: Any, read_list: Callable[[str], list[Any]]) -> tuple[str, list[Any]]:
    """The kind and the arguments of a range such as "log(1e-6, 1e-3)". `read_list` reads "[A, B]".

    Raises ValueError, which names the key, if it is none.
    """
    found = _RANGE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"search.{key}={text} is not a range: 'search.{key}=log(LOW,HIGH)', uniform(LOW,HIGH), integer(LOW,HIGH) "
            "or choice(A,B), in quotes"
        )
    kind, arguments = found.group(1), read_list(f"[{found.group(2)}]")
    if kind == "choice":
        if len(arguments) < 2:
            raise ValueError(f"search.{key}={text}: name at least two values")
        if not all(value is None or isinstance(value, str | int | float) for value in arguments):
            raise ValueError(f"search.{key}={text}: values are numbers, words, true, false or null")
        return kind, arguments
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in arguments)
    if len(arguments) != 2 or not numbers or not arguments[0] < arguments[1]:
        raise ValueError(f"search.{key}={text}: {kind} takes two numbers, the lower one first")
    if kind == "integer" and not all(float(value).is_integer() for value in arguments):
        raise ValueError(f"search.{key}={text}: integer takes two integers")
    if kind == "log" and arguments[0] <= 0:
        raise ValueError(f"search.{key}={text}: log takes numbers above 0")
    return kind, arguments


def example_point(space: Mapping[str, tuple[str, list[Any]]]) -> list[str]:
    """Settings of the space's corner with the lowest (first) values, to check that they are valid."""
    return [as_setting(key, _typed(kind, arguments[0])) for key, (kind, arguments) in space.items()]


def _typed(kind: str, value: Any) -> Any:
    return value if kind == "choice" else int(value) if kind == "integer" else float(value)


class Search:
    """A study of Optuna in `folder`, whose trials are configurations; it maximises the mean of `best_dev` over seeds.

    A trial whose jobs have not all finished stays open, and is tried again by the next command with the same values.
    The values of a trial are drawn by a sampler of its own, keyed by the seed and the trial's number: they depend on
    the trials that have ended before it, and not on whether the command was killed between.
    """

    def __init__(
        self,
        folder: Path,
        space: Mapping[str, tuple[str, list[Any]]],
        trials: int,
        *,
        seeds: Sequence[int],
        add: Callable[[Configuration], list[Job]],
        dev_value: Callable[[Job], float | None],
        is_finished: Callable[[Job], bool],
        note: Callable[[Job, Outcome], None],
    ) -> None:
        self._optuna = import_optuna()
        self.space, self.trials, self.seeds = space, trials, sorted(seeds)
        self._add, self._dev_value, self._is_finished, self._note = add, dev_value, is_finished, note
        self._distributions = {key: self._distribution(*part) for key, part in space.items()}
        self._study = self._open(folder)
        self._open_trials: dict[int, list[Job]] = {}  # their jobs that are not finished
        self._jobs: dict[int, list[Job]] = {}
        self._queue: list[Job] = []
        self._load()

    def next_job(self) -> Job | None:
        if not self._queue and len(self._study.trials) < self.trials:
            number = len(self._study.trials)
            seed = stable_hash("trial", number) % 2**32  # the first draws of small seeds resemble each other
            self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
            trial = self._study.ask(self._distributions)
            self._begin(trial.number, trial.params)
        return self._queue.pop(0) if self._queue else None

    def ended(self, job: Job, outcome: Outcome) -> None:
        self._note(job, outcome)
        number = next(number for number, jobs in self._jobs.items() if job in jobs)
        if outcome.status == "finished":
            self._open_trials[number].remove(job)
            self._tell_if_complete(number)

    @property
    def best(self) -> tuple[Configuration, float] | None:
        """The configuration with the best value so far; None if no trial is complete."""
        complete = [trial for trial in self._study.trials if trial.state.name == "COMPLETE"]
        if not complete:
            return None
        best = max(complete, key=lambda trial: (trial.value, -trial.number))
        return self.configuration(best.number, best.params), best.value

    def configuration(self, number: int, values: Mapping[str, Any]) -> Configuration:
        """The configuration of a trial; its name shows rounded values."""
        shown = ", ".join(f"{key}={v:.3g}" if isinstance(v, float) else f"{key}={v}" for key, v in values.items())
        overrides = [as_setting(key, values[key]) for key in self.space]
        return Configuration.of(f"trial {number} ({shown})", overrides, f"trial-{number:03d}")

    def _begin(self, number: int, values: Mapping[str, Any]) -> None:
        jobs = self._add(self.configuration(number, values))
        self._jobs[number] = jobs
        self._open_trials[number] = [job for job in jobs if not self._is_finished(job)]
        self._queue += self._open_trials[number]
        self._tell_if_complete(number)

    def _tell_if_complete(self, number: int) -> None:
        if self._open_trials[number]:
            return
        values = [self._dev_value(job) for job in self._jobs[number]]
        if any(value is None for value in values):
            raise ValueError(
                "a search maximises the metric of dev, and these data have no dev split: give them one "
                "(data.dev_fraction)"
            )
        self._study.tell(number, fmean(value for value in values if value is not None))

    def _load(self) -> None:
        """Take over the trials of earlier commands: ended ones as they are, open ones to be finished."""
        for trial in self._study.trials:
            if set(trial.params) != set(self.space):  # killed while it was drawn
                if trial.state.name == "RUNNING":
                    self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
            elif trial.state.name == "RUNNING":
                self._begin(trial.number, trial.params)
            else:
                self._jobs[trial.number] = self._add(self.configuration(trial.number, trial.params))

    def _open(self, folder: Path) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / JOURNAL
        with suppress(FileNotFoundError):  # of a killed command: this one has the folder's lock
            file.with_name(f"{JOURNAL}.lock").unlink()
        journal = self._optuna.storages.journal
        storage = self._optuna.storages.JournalStorage(journal.JournalFileBackend(str(file)))
        study = self._optuna.create_study(
            storage=storage, study_name="search", direction="maximize", load_if_exists=True
        )
        space = {key: [kind, *arguments] for key, (kind, arguments) in self.space.items()}
        earlier = study.user_attrs.get(_SPACE)
        if earlier is None:
            study.set_user_attr(_SPACE, space)
        elif earlier != space:
            raise ValueError(
                f"{folder} was started with another search: {_describe(earlier)}, now {_describe(space)}: repeat it, "
                "or choose another run_name"
            )
        if (seeds := study.user_attrs.get(_SEEDS, self.seeds)) != self.seeds:
            raise ValueError(
                f"{folder} is a search with seeds={seeds}, whose trials are judged by their mean, now {self.seeds}: "
                "repeat them, choose another run_name, or compare its best trials by experiments.NAME=[...]"
            )
        study.set_user_attr(_SEEDS, seeds)
        return study

    def _distribution(self, kind: str, arguments: Sequence[Any]) -> Any:
        distributions = self._optuna.distributions
        if kind == "choice":
            return distributions.CategoricalDistribution(arguments)
        if kind == "integer":
            return distributions.IntDistribution(int(arguments[0]), int(arguments[1]))
        return distributions.FloatDistribution(float(arguments[0]), float(arguments[1]), log=kind == "log")


def check_kind(folder: Path, *, is_search: bool) -> None:
    """Raise ValueError if the folder holds an ablation of the other kind."""
    was_search = (folder / JOURNAL).is_file()
    if was_search and not is_search:
        raise ValueError(f"{folder} holds a search: choose another run_name for a grid or experiments")
    if is_search and not was_search and (folder / FILE).is_file():
        raise ValueError(f"{folder} holds a grid or experiments: choose another run_name for a search")


def _describe(space: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(f"{key}={kind}({','.join(map(str, rest))})" for key, (kind, *rest) in space.items())


def import_optuna() -> Any:
    """Import Optuna, silenced. Raises ValueError if it is not installed, or too old."""
    try:
        import optuna
        from optuna.storages import journal  # noqa: F401
    except ImportError:
        raise ValueError(
            "a search needs Optuna 4 or newer: pip install -c constraints.txt -e '.[ablate]' (hydra-optuna-sweeper "
            "pins an older one: uninstall that)"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
