"""The rules of a run: begun, resumed, refused, finished, moved aside."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from engines.checkpoint.store import STATE_FILE, CheckpointStore, read_state
from engines.distributed.testing import run_ranks
from runs.directory import RunDirectory
from trainers.state import TrainState


def settings(root: Path, **changes: object) -> dict[str, Any]:
    config = OmegaConf.create(
        {
            "run_name": "first",
            "output_dir": str(root),
            "resume": "auto",
            "seed": 1,
            "trainer": {"_target_": "a.B", "max_steps": 9, "log_every": 1, "token_budget": 64, "betas": [0.9, 0.99]},
            "logger": {"_target_": "a.C", "project": "p"},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return OmegaConf.to_container(config)


def write(folder: Path) -> list[Path]:
    (folder / "weights").touch()
    return [folder / "weights"]


def train_until(run: RunDirectory, step: int, saved: int | None) -> None:
    """Metrics up to `step`, a checkpoint at `saved` (marked best)."""
    run.append_metrics({"step": 0, "split": "test", "name": "before", "nDCG@10": 0.1})
    run.append_metrics({"step": 0, "split": "dev", "nDCG@10": 0.1})
    for number in range(1, step + 1):
        run.append_metrics({"step": number, "split": "train", "loss": 1 / number})
    if saved is not None:
        store = CheckpointStore(run.checkpoints)
        store.save(saved, write, {"step": saved, "best_step": saved}, best=True)


def logged_steps(run: RunDirectory) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [(line["split"], line["step"]) for line in lines]


def test_a_new_run_records_its_configuration_and_environment(tmp_path):
    run = RunDirectory.open(settings(tmp_path))
    assert (run.path, run.name, run.finished) == (tmp_path / "first", "first", False)
    assert run.checkpoints.is_dir()
    assert OmegaConf.load(run.path / "config.yaml") == settings(tmp_path)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["world_size"] == 1
    assert environment["hardware"]["cpu_cores"] >= 1
    assert environment["hardware"]["memory_bytes"] > 2**30


def test_no_environment_variable_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-value")
    run = RunDirectory.open(settings(tmp_path))
    assert not any("a-secret-value" in file.read_text() for file in run.path.iterdir() if file.is_file())


def test_metrics_are_strict_json_lines(tmp_path):
    run = RunDirectory.open(settings(tmp_path))
    run.append_metrics({"loss": math.nan, "reward": torch.tensor(0.5), "step": 3, "split": "train", "norm": math.inf})
    assert run.metrics_file.read_text() == (
        '{"step": 3, "split": "train", "loss": null, "reward": 0.5, "norm": null}\n'
    )


def test_an_unfinished_run_is_resumed_at_its_checkpoint(tmp_path, capsys):
    train_until(RunDirectory.open(settings(tmp_path)), step=5, saved=3)
    with (tmp_path / "first" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "spl')  # killed while writing
    run = RunDirectory.open(settings(tmp_path, trainer__log_every=2, trainer__kept_chunks=1, logger__project="q"))
    assert f"resuming {tmp_path}/first from step 3" in capsys.readouterr().err
    assert logged_steps(run) == [("test", 0), ("dev", 0), ("train", 1), ("train", 2), ("train", 3)]
    environment = json.loads((run.path / "environment.json").read_text())
    assert len(environment["resumed"]) == 1
    assert OmegaConf.load(run.path / "config.yaml").trainer.log_every == 2


def test_a_run_without_a_checkpoint_starts_again_with_its_first_test_scores(tmp_path, capsys):
    train_until(RunDirectory.open(settings(tmp_path)), step=5, saved=None)
    run = RunDirectory.open(settings(tmp_path))
    assert "before its first checkpoint" in capsys.readouterr().err
    assert logged_steps(run) == [("test", 0)]


def test_a_corrected_mistake_is_no_other_run(tmp_path):
    run = RunDirectory.open(settings(tmp_path, trainer__max_steps=-1))
    run.describe_data("wrong", "abc")
    (run.path / "reference_scores.npz").touch()  # of another model
    run.append_metrics({"step": 0, "split": "test", "nDCG@10": 0.1})
    (run.path / "traceback.txt").touch()
    (run.path / "runs").mkdir()
    run = RunDirectory.open(settings(tmp_path))
    run.describe_data("right", "def")
    assert sorted(child.name for child in run.path.iterdir()) == ["checkpoints", "config.yaml", "environment.json"]
    assert OmegaConf.load(run.path / "config.yaml") == settings(tmp_path)


def test_a_setting_that_changes_the_result_is_refused_by_name(tmp_path):
    train_until(RunDirectory.open(settings(tmp_path)), step=5, saved=3)
    with pytest.raises(ValueError) as caught:
        RunDirectory.open(settings(tmp_path, trainer__max_steps=20, trainer__betas=[0.9, 0.95]))
    assert "trainer.max_steps 9 -> 20, trainer.betas [0.9, 0.99] -> [0.9, 0.95]" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "first" / "metrics.jsonl").read_text().count("\n") == 7


def test_another_engine_and_number_of_ranks_go_on_and_are_told(tmp_path, capsys):
    config = settings(tmp_path, engine={"_target_": "a.Zero", "stage": 2, "precision": "fp32", "config": {}})
    run = RunDirectory.open(config)
    state = TrainState(step=3, world_size=4, wandb_run_id="abcd")
    CheckpointStore(run.checkpoints).save(3, write, state.to_dict())
    other = {"_target_": "a.Zero", "stage": 3, "precision": "fp32", "config": {"zero_optimization": {"x": 1}}}
    run = RunDirectory.open(settings(tmp_path, engine=other))
    told = capsys.readouterr().err
    assert f"resuming {tmp_path}/first from step 3, engine.stage 2 -> 3, " in told
    assert "ranks 4 -> 1: the same samples, equal up to rounding" in told
    assert run.checkpoint == (run.checkpoints / "step-000003", state)
    assert run.wandb_run_id() == "abcd"
    with pytest.raises(ValueError, match=r"engine.precision fp32 -> bf16"):
        RunDirectory.open(settings(tmp_path, engine={**other, "precision": "bf16"}))


def test_a_broken_checkpoint_is_not_started_from(tmp_path):
    run = RunDirectory.open(settings(tmp_path))
    train_until(run, step=5, saved=3)
    (run.checkpoints / "step-000003" / "weights").unlink()
    with pytest.raises(ValueError, match=r"best is a broken checkpoint: weights is missing"):
        RunDirectory.open(settings(tmp_path, resume=str(run.checkpoints / "best"), run_name="second"))
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(("changes", "left_out"), [({"trainer__betas": [0.5, 0.9]}, [2]), ({"seed": 2}, [])])
def test_batches_that_were_left_out_stay_so_where_they_are_the_same(tmp_path, changes, left_out):
    run = RunDirectory.open(settings(tmp_path))
    CheckpointStore(run.checkpoints).save(3, write, {"step": 3, "best_step": 3, "skipped_batches": [2]}, best=True)
    source = str(run.checkpoints / "best")
    run = RunDirectory.open(settings(tmp_path, resume=source, run_name="second", **changes))
    assert run.checkpoint[1].skipped_batches == left_out
    assert read_state(run.checkpoint[0])["skipped_batches"] == left_out


def test_rows_that_are_left_out_are_listed(tmp_path):
    run = RunDirectory.open(settings(tmp_path))
    rows = [{"where": "x.jsonl:3", "error": "malformed JSON"}, {"where": "x.jsonl:7", "error": "no document"}]
    run.describe_data("x", "abc", rows)
    run.describe_data("x", "abc", rows)  # a resumed run reads the same data
    assert [json.loads(line) for line in (run.path / "skipped.jsonl").read_text().splitlines()] == rows
    run.describe_data("x", "abc")
    assert not (run.path / "skipped.jsonl").exists()


def test_other_data_is_refused(tmp_path):
    RunDirectory.open(settings(tmp_path)).describe_data("scifact", "abc")
    run = RunDirectory.open(settings(tmp_path))
    run.describe_data("scifact", "abc")
    with pytest.raises(ValueError, match=r"other data \(scifact, fingerprint abc, now scifact, def\)"):
        run.describe_data("scifact", "def")


def test_a_finished_run_is_shown(tmp_path):
    RunDirectory.open(settings(tmp_path)).write_summary({"after": 0.5, "best_dev": math.nan})
    run = RunDirectory.open(settings(tmp_path))
    assert run.finished
    assert run.summary == {"after": 0.5, "best_dev": None}
    with pytest.raises(ValueError, match=r"seed 1 -> 2"):
        RunDirectory.open(settings(tmp_path, seed=2))


def test_resume_none_moves_the_earlier_run_aside(tmp_path, capsys):
    for number in range(3):
        run = RunDirectory.open(settings(tmp_path, resume="none", seed=number))
        run.write_summary({"after": number})
    assert f"moved the earlier {tmp_path}/first to {tmp_path}/first.2" in capsys.readouterr().err
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("first.1", "first.2", "first")]
    assert summaries == [{"after": 0}, {"after": 1}, {"after": 2}]


def launched_again(monkeypatch: pytest.MonkeyPatch, count: int, job: str, by: str = "TORCHELASTIC") -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
    monkeypatch.setenv(f"{by}_RESTART_COUNT", str(count))


@pytest.mark.parametrize(("job", "by"), [("none", "TORCHELASTIC"), ("job-7", "TORCHELASTIC"), ("7", "SLURM")])
def test_resume_none_goes_on_where_the_launch_is_started_again(tmp_path, monkeypatch, job, by):
    launched_again(monkeypatch, 0, "an earlier job", by)
    train_until(RunDirectory.open(settings(tmp_path)), step=5, saved=3)
    launched_again(monkeypatch, 1, job, by)  # whose first attempt did not come so far
    assert RunDirectory.open(settings(tmp_path, resume="none")).checkpoint is None
    assert (tmp_path / "first.1").exists()
    train_until(RunDirectory.open(settings(tmp_path, resume="auto")), step=5, saved=3)
    run = RunDirectory.open(settings(tmp_path, resume="none"))
    assert run.checkpoint[1].step == 3
    assert not (tmp_path / "first.2").exists()
    launched_again(monkeypatch, 0, job, by)  # started by hand, under the same name
    assert RunDirectory.open(settings(tmp_path, resume="none")).checkpoint is None
    assert (tmp_path / "first.2").exists()


def test_a_restart_goes_on_with_what_began_from_another_runs_checkpoint(tmp_path, monkeypatch):
    train_until(RunDirectory.open(settings(tmp_path)), step=5, saved=3)
    path = tmp_path / "first" / "checkpoints" / "best"
    launched_again(monkeypatch, 0, "none")
    run = RunDirectory.open(settings(tmp_path, resume=str(path), run_name="second"))
    CheckpointStore(run.checkpoints).save(7, write, {"step": 7, "best_step": 3})
    launched_again(monkeypatch, 1, "none")
    again = RunDirectory.open(settings(tmp_path, resume=str(path), run_name="second"))
    assert again.checkpoint[1].step == 7
    assert (run.start_step(), again.start_step()) == (3, 3)
    assert RunDirectory(tmp_path / "first").start_step() == 0


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("pointer", ["step-000003", "best"])
@pytest.mark.parametrize("seed", [1, 7])
def test_resume_path_starts_from_a_copy_of_that_checkpoint(tmp_path, name, pointer, seed):
    train_until(RunDirectory.open(settings(tmp_path)), step=5, saved=3)
    CheckpointStore(tmp_path / "first" / "checkpoints").save(5, write, {"step": 5, "best_step": 3})
    path = tmp_path / "first" / "checkpoints" / pointer
    run = RunDirectory.open(settings(tmp_path, resume=str(path), run_name=name, seed=seed))
    folder, state = CheckpointStore(run.checkpoints).latest()
    assert (folder, state["step"]) == (tmp_path / name / "checkpoints" / "step-000003", 3)
    # Of another run, its best metric may be another's: no mark to beat.
    assert CheckpointStore(run.checkpoints).best() == (folder if seed == 1 else None)
    assert state["best_step"] == run.checkpoint[1].best_step == (3 if seed == 1 else None)
    assert state.get("pending_evaluation", False) == (seed == 7)
    assert logged_steps(run)[-1] == ("train", 3)
    assert (tmp_path / "first.1").exists() == (name == "first")
    original = tmp_path / ("first.1" if name == "first" else "first") / "checkpoints"
    assert (original / "step-000005" / STATE_FILE).is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_name": "../escape"}, r"run_name='../escape' is not a valid folder name"),
        ({"run_name": ""}, r"run_name='' is not"),
        ({"run_name": ".."}, r"run_name='\.\.' is not"),
        ({"resume": "checkpoint"}, r"resume=checkpoint is not a checkpoint: expected auto, none or"),
    ],
)
def test_a_wrong_name_or_path_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        RunDirectory.open(settings(tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"output_dir=.*file: .*file cannot be created \(.*\); choose another folder"):
        RunDirectory.open(settings(tmp_path / "file"))


def open_on_every_rank(root: str) -> list[str]:
    """What each of four calls gives: a run, the refusal, the finished run."""
    run = RunDirectory.open(settings(Path(root)))
    run.append_metrics({"step": 1, "split": "train", "loss": 1.0})
    run.describe_data("scifact", "abc")
    CheckpointStore(run.checkpoints).save(1, lambda folder: [], {"step": 1})
    heard = [str(run.path)]
    try:
        RunDirectory.open(settings(Path(root), seed=2))
    except ValueError as error:
        heard.append(str(error).split(": ")[1][:11])
    try:
        run.describe_data("scifact", "def")
    except ValueError as error:
        heard.append(str(error)[-22:])
    run.write_summary({"after": 1.0})
    heard.append(str(RunDirectory.open(settings(Path(root))).summary))
    return heard


def test_rank_0_decides_for_all_and_writes_alone(tmp_path):
    first, second = run_ranks(open_on_every_rank, 2, str(tmp_path))
    assert first == second
    assert len(first) == 4
    assert (tmp_path / "first" / "metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_a_broken_file_is_named(tmp_path, name):
    train_until(RunDirectory.open(settings(tmp_path)), step=5, saved=3)
    (tmp_path / "first" / name).write_text("{[")
    with pytest.raises(ValueError, match=f"{name} is broken .*resume=none"):
        RunDirectory.open(settings(tmp_path))


def test_a_broken_summary_is_named(tmp_path):
    RunDirectory.open(settings(tmp_path)).write_summary({"after": 1.0})
    (tmp_path / "first" / "summary.json").write_bytes(b"\x00\xff")
    with pytest.raises(ValueError, match=r"summary.json is broken .*remove it"):
        RunDirectory.open(settings(tmp_path))


def test_what_is_no_line_of_metrics_is_dropped(tmp_path):
    run = RunDirectory.open(settings(tmp_path))
    train_until(run, step=5, saved=3)
    with run.metrics_file.open("ab") as file:
        file.write(b'1\n{}\n{"step": 1, "spl\n\x00\xff\n')
    assert logged_steps(RunDirectory.open(settings(tmp_path)))[-1] == ("train", 3)
