"""ablation.json: what a command finds in the folder of an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.ablate.configurations import configurations_of
from recipes.ablate.record import Record, take_over
from recipes.ablate.schedule import Outcome


def compose(settings):
    """The tree of settings that are numbers and words."""
    return dict(setting.lstrip("+").split("=", 1) for setting in settings)


def record(folder: Path, losses: list[str], common=("steps=4",), seeds=(1, 2)) -> Record:
    made = Record(folder, common, [], seeds)
    for configuration in configurations_of({}, {"loss": losses}):
        made.add(configuration)
    take_over(made, compose)
    return made


def finish(made: Record, *indices: int) -> None:
    jobs = list(made.jobs)
    for index in indices:
        made.run_folder(jobs[index]).mkdir(parents=True)
        (made.run_folder(jobs[index]) / "summary.json").write_text("{}")
        made.ended(jobs[index], Outcome("finished", None, 2.04))
    made.write()


def statuses(made: Record) -> dict[str, str]:
    return {job.name: entry["status"] for job, entry in made.jobs.items()}


def test_the_file_has_the_form_that_reports_read(tmp_path: Path):
    made = record(tmp_path / "a", ["bce", "hinge"])
    finish(made, 0)
    made.ended(list(made.jobs)[1], Outcome("failed", "no such thing", 1.0))
    made.write()
    assert json.loads((tmp_path / "a" / "ablation.json").read_text()) == {
        "name": "a",
        "settings": ["steps=4"],
        "metric": None,
        "baseline": "loss=bce",
        "seeds": [1, 2],
        "configurations": [
            {"name": "loss=bce", "overrides": ["loss=bce"]},
            {"name": "loss=hinge", "overrides": ["loss=hinge"]},
        ],
        "jobs": [
            _job("bce", 1, "finished", seconds=2.0),
            _job("bce", 2, "failed", seconds=1.0, error="no such thing"),
            _job("hinge", 1, "waiting"),
            _job("hinge", 2, "waiting"),
        ],
        "results": None,
    }


def _job(loss: str, seed: int, status: str, *, seconds: float | None = None, error: str | None = None) -> dict:
    run = f"runs/loss_{loss}-seed{seed}"
    names = {"configuration": f"loss={loss}", "seed": seed, "run": run}
    return {**names, "status": status, "error": error, "seconds": seconds}


def test_finished_jobs_are_known_by_their_summary(tmp_path: Path):
    first = record(tmp_path, ["bce", "hinge"])
    finish(first, 0)
    first.run_folder(list(first.jobs)[3]).mkdir(parents=True)  # finished by a run that the file does not know of
    (first.run_folder(list(first.jobs)[3]) / "summary.json").write_text("{}")
    again = record(tmp_path, ["bce", "hinge"])
    assert list(statuses(again).values()) == ["finished", "waiting", "waiting", "finished"]
    assert again.jobs[next(iter(again.jobs))]["seconds"] == 2.0
    (again.run_folder(next(iter(again.jobs))) / "summary.json").unlink()
    assert statuses(record(tmp_path, ["bce", "hinge"]))["loss_bce-seed1"] == "waiting"


def test_seconds_of_several_starts_are_added(tmp_path: Path):
    first = record(tmp_path, ["bce"])
    first.ended(next(iter(first.jobs)), Outcome("stopped", None, 10.0))
    first.write()
    again = record(tmp_path, ["bce"])
    again.ended(next(iter(again.jobs)), Outcome("finished", None, 5.0))
    assert again.jobs[next(iter(again.jobs))]["seconds"] == 15.0


def test_a_grid_that_has_changed_keeps_what_is_finished(tmp_path: Path):
    finish(record(tmp_path, ["bce", "hinge"]), 0, 2)
    again = record(tmp_path, ["bce", "list_net"], seeds=[2, 3])
    assert list(statuses(again).values()) == ["waiting"] * 4
    again.write()
    content = json.loads(again.file.read_text())
    assert [each["name"] for each in content["configurations"]] == ["loss=hinge", "loss=bce", "loss=list_net"]
    kept = [(job["configuration"], job["seed"]) for job in content["jobs"] if job["status"] == "finished"]
    assert kept == [("loss=bce", 1), ("loss=hinge", 1)]
    assert content["seeds"] == [1, 2, 3]
    assert content["baseline"] == "loss=bce", "the first that the command names"
    third = record(tmp_path, ["hinge"])
    assert statuses(third)["loss_hinge-seed1"] == "finished"


def test_other_common_settings_are_refused_by_name_once_a_run_has_trained(tmp_path: Path):
    finish(record(tmp_path, ["bce"]), 0)
    with pytest.raises(ValueError, match=r"steps 4 -> 5 \(in loss=bce\)\. Repeat them, choose another run_name"):
        record(tmp_path, ["bce"], common=("steps=5",))
    record(tmp_path, ["hinge"], common=("steps=5",))  # has trained nothing yet
    (tmp_path / "runs" / "loss_bce-seed1" / "summary.json").unlink()
    record(tmp_path, ["bce"], common=("steps=5",))
    (tmp_path / "runs" / "loss_bce-seed1" / "checkpoints" / "step-000002").mkdir(parents=True)
    with pytest.raises(ValueError, match="steps 4 -> 5"):
        record(tmp_path, ["bce"], common=("steps=5",))


def test_secrets_are_not_written(tmp_path: Path):
    made = Record(tmp_path, ("logger.api_key=abcdefgh12345678",), [], (1,))
    made.write()
    assert "abcdefgh12345678" not in made.file.read_text()
