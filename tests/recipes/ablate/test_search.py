"""A search by Optuna, with jobs that only exist in these tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="the extra `ablate` is not installed")

from launch.cli.ablation import _read_list
from recipes.ablate.record import Record
from recipes.ablate.schedule import Outcome
from recipes.ablate.search import Search, check_kind, example_point, parse_range

SPACE = {"rate": ("log", [1e-6, 1e-2]), "size": ("integer", [1, 4]), "kind": ("choice", ["a", "b", None])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(1e-6, 1e-3)", ("log", [1e-6, 1e-3])),
        ("uniform(0,0.5)", ("uniform", [0, 0.5])),
        ("integer(1,8)", ("integer", [1, 8])),
        ("choice(bce, 'a b', null)", ("choice", ["bce", "a b", None])),
    ],
)
def test_ranges(text, expected):
    assert parse_range("x", text, _read_list) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-6", "is not a range"),
        ([1, 2], "is not a range"),
        ("log(0,1)", "above 0"),
        ("log(1,0.1)", "the lower one first"),
        ("uniform(a,b)", "two numbers"),
        ("integer(1.5,3)", "two integers"),
        ("choice(a)", "at least two"),
        ("choice([1],[2])", "numbers, words"),
    ],
)
def test_wrong_ranges_are_refused_with_their_key(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_range("x", text, _read_list)
    assert str(error.value).startswith("search.x=")


def test_the_example_is_a_corner():
    assert example_point(SPACE) == ["rate=1e-06", "size=1", "kind=a"]


def value_of(job) -> float:
    """What a run would give: best at a rate of 1e-4."""
    settings = dict(setting.split("=") for setting in job.configuration.overrides)
    return -abs(float(settings["rate"]) - 1e-4) + job.seed / 1e6


class Folder:
    """A search in a folder; `run` runs so many jobs, of which those named in `failing` fail."""

    def __init__(self, path: Path, trials: int, seeds=(1,), space=SPACE):
        self.record = Record(path, (), [], seeds)
        self.search = Search(
            path,
            space,
            trials,
            seeds=seeds,
            add=self.record.add,
            dev_value=value_of,
            is_finished=self.record.is_finished,
            note=self.record.ended,
        )

    def run(self, jobs: int = 10**9, failing: tuple[str, ...] = ()) -> list[str]:
        names = []
        while len(names) < jobs and (job := self.search.next_job()) is not None:
            names.append(job.name)
            if job.name in failing:
                self.search.ended(job, Outcome("failed", "an error", 1.0))
                continue
            self.record.run_folder(job).mkdir(parents=True, exist_ok=True)
            (self.record.run_folder(job) / "summary.json").write_text("{}")
            self.search.ended(job, Outcome("finished", None, 1.0))
        return names

    def points(self) -> list[tuple[str, ...]]:
        return [configuration.overrides for configuration in self.record.configurations]


def test_a_search_tries_so_many_configurations_and_names_the_best(tmp_path: Path):
    made = Folder(tmp_path, 6)
    assert made.run() == [f"trial-{number:03d}-seed1" for number in range(6)]
    configuration, value = made.search.best
    assert value == max(map(value_of, made.record.jobs))
    assert configuration in made.record.configurations
    assert len(set(made.points())) == 6
    rates = [float(point[0].split("=")[1]) for point in made.points()]
    assert min(rates) >= 1e-6
    assert max(rates) <= 1e-2
    assert max(rates) / min(rates) > 100, "spread over the range"


@pytest.mark.parametrize("jobs", [1, 3, 5])
def test_a_search_that_was_killed_goes_on_with_the_same_points(tmp_path: Path, jobs: int):
    whole = Folder(tmp_path / "whole", 6, seeds=(1, 2))
    whole.run()
    Folder(tmp_path / "killed", 6, seeds=(1, 2)).run(jobs)
    again = Folder(tmp_path / "killed", 6, seeds=(1, 2))
    assert len(again.run()) == 12 - jobs
    assert again.points() == whole.points()
    assert again.search.best == whole.search.best


def test_a_point_that_was_drawn_and_not_run_is_run(tmp_path: Path):
    killed = Folder(tmp_path, 3)
    drawn = killed.search.next_job()
    again = Folder(tmp_path, 3)
    assert again.search.next_job() == drawn


def test_failed_trials_are_tried_again_by_the_next_command_and_count_as_trials(tmp_path: Path):
    first = Folder(tmp_path, 3)
    assert len(first.run(failing=("trial-001-seed1",))) == 3
    assert Folder(tmp_path, 3).run() == ["trial-001-seed1"]
    assert Folder(tmp_path, 3).run() == []
    assert Folder(tmp_path, 4).run() == ["trial-003-seed1"], "more trials"


def test_another_space_in_the_same_folder_is_refused(tmp_path: Path):
    Folder(tmp_path, 1)
    with pytest.raises(ValueError, match=r"rate=log\(1e-06,0.01\).* now rate=uniform\(0,1\): repeat it, or"):
        Folder(tmp_path, 1, space={"rate": ("uniform", [0, 1])})


def test_other_seeds_in_the_same_folder_are_refused(tmp_path: Path):
    Folder(tmp_path, 2).run()
    with pytest.raises(ValueError, match=r"is a search with seeds=\[1\], .* now \[1, 2\]: repeat them"):
        Folder(tmp_path, 2, seeds=(1, 2))
    Folder(tmp_path / "two", 1, seeds=(2, 1))
    Folder(tmp_path / "two", 1, seeds=(1, 2))


def test_a_search_and_a_grid_do_not_share_a_folder(tmp_path: Path):
    check_kind(tmp_path / "new", is_search=True)
    Folder(tmp_path / "search", 1).record.write()
    check_kind(tmp_path / "search", is_search=True)
    with pytest.raises(ValueError, match="holds a search: choose another run_name"):
        check_kind(tmp_path / "search", is_search=False)
    Record(tmp_path / "grid", (), [], (1,)).write()
    check_kind(tmp_path / "grid", is_search=False)
    with pytest.raises(ValueError, match="holds a grid or experiments: choose another run_name"):
        check_kind(tmp_path / "grid", is_search=True)


def test_data_without_dev_are_refused(tmp_path: Path):
    made = Folder(tmp_path, 1)
    made.search._dev_value = lambda job: None
    with pytest.raises(ValueError, match="no dev split"):
        made.run()


def test_the_journal_is_text(tmp_path: Path):
    Folder(tmp_path, 2).run()
    lines = (tmp_path / "search.journal").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
