"""ablation.json: what a command finds in the folder of an earlier one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from recipes.ablate.configurations import Configuration, Job, configurations_of, merged
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
        train(made, jobs[index])
        made.ended(jobs[index], Outcome("finished", None, 2.04))
    made.write()


def train(made: Record, job: Job, result: str = "summary.json") -> None:
    """Leave the files of a run that was started with the settings of `made`."""
    folder = made.run_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    tree = {**compose(merged(made.common, job.configuration.overrides)), "seed": job.seed, "run_name": job.name}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    if result == "summary.json":
        (folder / result).write_text("{}")
    else:
        (folder / result).mkdir(parents=True)


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
    train(first, list(first.jobs)[3])  # finished by a run that the file does not know of
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
    first = record(tmp_path, ["bce"])
    first.write()
    record(tmp_path, ["bce"], common=("steps=5",))  # has trained nothing yet
    train(first, next(iter(first.jobs)), "checkpoints/step-000002")
    with pytest.raises(ValueError, match="steps 4 -> 5"):
        record(tmp_path, ["bce"], common=("steps=5",))
    finish(first, 0)
    with pytest.raises(
        ValueError, match=r"steps 4 -> 5 \(in loss=bce, seed 1\)\. Repeat them, choose another run_name"
    ):
        record(tmp_path, ["bce"], common=("steps=5",))
    first.file.unlink()
    with pytest.raises(ValueError, match="steps 4 -> 5"):
        record(tmp_path, ["bce"], common=("steps=5",))


@pytest.mark.parametrize(("losses", "seeds"), [(["hinge"], (1, 2)), (["bce"], (3,)), (["hinge"], (3,))])
def test_runs_of_earlier_configurations_and_seeds_count_too(tmp_path: Path, losses: list[str], seeds: tuple[int, ...]):
    finish(record(tmp_path, ["bce"]), 0, 1)
    with pytest.raises(ValueError, match=r"steps 4 -> 5 \(in loss=bce, seed 1 and 1 more runs\)") as error:
        record(tmp_path, losses, common=("steps=5",), seeds=seeds)
    assert str(error.value).endswith(f"or remove {tmp_path / 'runs'}")
    shutil.rmtree(tmp_path / "runs")
    assert record(tmp_path, losses, common=("steps=5",), seeds=seeds).earlier_jobs == []


def test_what_has_changed_is_found_by_the_files_of_the_runs(tmp_path: Path):
    """A changed file of the configuration changes what the same command gives."""
    first = record(tmp_path, ["bce", "hinge"])
    finish(first, 0, 2)
    config = first.run_folder(list(first.jobs)[2]) / "config.yaml"
    config.write_text(config.read_text() + "lists: 8\n")
    with pytest.raises(ValueError, match=r"lists 8 -> not set \(in loss=hinge, seed 1\)") as error:
        record(tmp_path, ["bce"])
    assert str(error.value).endswith(f"or remove {tmp_path}/runs/loss_hinge-seed*")
    config.unlink()
    with pytest.raises(ValueError, match=r"config\.yaml is missing \(in loss=hinge, seed 1\)"):
        record(tmp_path, ["bce", "hinge"])


def test_the_evaluation_may_be_that_which_the_labels_have_chosen(tmp_path: Path):
    common = ("eval=ranks", "eval_of_degrees=degrees")
    first = record(tmp_path, ["bce"], common)
    finish(first, 0)
    config = first.run_folder(next(iter(first.jobs))) / "config.yaml"
    text = config.read_text().replace("eval_of_degrees: degrees", "eval_of_degrees: null")
    for chosen in ("ranks", "degrees"):
        config.write_text(text.replace("eval: ranks", f"eval: {chosen}"))
        record(tmp_path, ["bce"], common)
    config.write_text(text.replace("eval: ranks", "eval: other"))
    with pytest.raises(ValueError, match="eval other -> ranks"):
        record(tmp_path, ["bce"], common)


def test_settings_that_change_no_result_may_differ(tmp_path: Path):
    finish(record(tmp_path, ["bce"], common=("timeout_s=1",)), 0)
    assert statuses(record(tmp_path, ["bce"], common=("timeout_s=2",)))["loss_bce-seed1"] == "finished"


def test_secrets_are_not_written(tmp_path: Path):
    given = ("logger.api_key=abcdefgh12345678", "data.password='correct horse'", "+x.token='ab,cd'", "data.path=a b")
    own = [Configuration.of("a", ("data.secret='other words'", "x={password: 'third, words'}"))]
    made = Record(tmp_path, given, own, (1,))
    made.write()
    content = json.loads(made.file.read_text())
    assert content["settings"] == ["logger.api_key=***", "data.password=***", "+x.token=***", "data.path=a b"]
    assert content["configurations"][0]["overrides"] == ["data.secret=***", "x={password: '***'}"]
