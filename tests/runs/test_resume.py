"""How a run directory is to be opened: every decision, and that deciding changes nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.checkpoint.store import CheckpointStore
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks
from runs import resume
from runs.directory import RunDirectory
from runs.resume import Decision, Finished, Fresh, Refused, Restart, Resume, ResumeStages, StartFrom, decide
from runs.settings_diff import Change
from trainers.state import TrainState


def settings(root: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run_name": "run",
        "output_dir": str(root),
        "resume": "auto",
        "seed": 1,
        "logger": {"project": "p"},
    } | changes


def write(folder: Path) -> list[Path]:
    file = folder / f"rank{rank()}"
    file.write_text("weights")
    return [file]


def save(run: RunDirectory, step: int, **layout: int) -> None:
    state = TrainState(step=step, best_step=3, world_size=1, **layout)
    CheckpointStore(run.checkpoints).save(step, write, state.to_dict())


def content(root: Path) -> dict[str, bytes | None]:
    """Every path below `root`, and the content of files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


def decide_only(root: Path, source: Path | None = None, **changes: Any) -> Decision:
    """The decision, once it is sure that making it has changed nothing."""
    before = content(root)
    decision = decide(settings(root, **changes), root / "run", source)
    assert content(root) == before
    return decision


def test_a_new_name_is_a_fresh_run(tmp_path: Path) -> None:
    assert decide_only(tmp_path) == Fresh(None)
    assert decide_only(tmp_path / "missing") == Fresh(None)


@pytest.mark.parametrize("changes", [{"resume": "none"}, {}])
def test_what_is_in_the_way_is_moved_to_the_next_free_name(tmp_path: Path, changes: dict[str, str]) -> None:
    for name in ("run", "run.1"):
        (tmp_path / name).mkdir()  # without a config.yaml it is no run that could be resumed
    assert decide_only(tmp_path, **changes) == Fresh(tmp_path / "run.2")


def test_an_unfinished_run_resumes_from_its_newest_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory.open(settings(tmp_path))
    for step in (3, 5):
        save(run, step)
    decision = decide_only(tmp_path, logger={"project": "other"})
    assert isinstance(decision, Resume)
    assert decision.checkpoint == (run.checkpoints / "step-000005", TrainState(step=5, best_step=3, world_size=1))
    assert decision.environment == json.loads((run.path / "environment.json").read_text())
    assert decision.changes == []


def test_with_negatives_of_some_ranks_their_number_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"trainer": {"negatives": "rank"}}
    save(RunDirectory.open(settings(tmp_path, **common)), 3)
    assert isinstance(decide_only(tmp_path, **common), Resume)
    monkeypatch.setattr(resume, "world_size", lambda: 2)
    decision = decide_only(tmp_path, **common)
    assert isinstance(decision, Refused)
    assert "was trained on 1 rank(s) with trainer.negatives=rank" in decision.message


def test_with_negatives_of_a_node_its_ranks_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"trainer": {"negatives": "node"}}
    save(RunDirectory.open(settings(tmp_path, **common)), 3, ranks_per_node=4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert isinstance(decide_only(tmp_path, **common), Resume)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    decision = decide_only(tmp_path, **common)
    assert isinstance(decision, Refused)
    assert "was trained on 4 rank(s) a node with trainer.negatives=node" in decision.message


def test_a_broken_checkpoint_and_the_remains_of_a_kill_stay_until_the_run_is_prepared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory.open(settings(tmp_path))
    for step in (3, 5):
        save(run, step)
    (run.checkpoints / "step-000003").rename(run.checkpoints / ".old-step-000003")
    (run.checkpoints / "step-000005" / "rank0").unlink()
    (run.checkpoints / ".tmp-step-000006").mkdir()
    with caplog.at_level(logging.WARNING):
        decision = decide_only(tmp_path)
    assert not caplog.text
    assert isinstance(decision, Resume)
    assert decision.checkpoint[0] == run.checkpoints / "step-000003"
    run = RunDirectory.open(settings(tmp_path))
    assert run.checkpoint == decision.checkpoint
    assert "step-000005 is broken: rank0 is missing" in caplog.text
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["latest", "step-000003", "step-000005.broken"]


def test_a_run_without_a_checkpoint_restarts_and_from_scratch_with_other_settings(tmp_path: Path) -> None:
    run = RunDirectory.open(settings(tmp_path))
    environment = json.loads((run.path / "environment.json").read_text())
    same, other = decide_only(tmp_path), decide_only(tmp_path, seed=2)
    assert isinstance(same, Restart)
    assert isinstance(other, Restart)
    assert (same.from_scratch, same.environment) == (False, environment)
    assert (other.from_scratch, other.environment) == (True, {})


def test_other_settings_are_refused_once_there_is_a_checkpoint(tmp_path: Path) -> None:
    save(RunDirectory.open(settings(tmp_path)), 3)
    decision = decide_only(tmp_path, seed=2)
    assert isinstance(decision, Refused)
    assert "run was started with other settings: seed 1 -> 2. Repeat them to resume it, choose" in decision.message


def test_a_refusal_leaves_a_broken_checkpoint_where_it_is(tmp_path: Path) -> None:
    run = RunDirectory.open(settings(tmp_path))
    for step in (3, 5):
        save(run, step)
    (run.checkpoints / "step-000005" / "rank0").unlink()
    before = content(run.path)
    with pytest.raises(ValueError, match="started with other settings"):
        RunDirectory.open(settings(tmp_path, seed=2))
    assert content(run.path) == before


def test_a_finished_run_is_shown_without_reading_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.open(settings(tmp_path))
    save(run, 3)
    run.write_summary({"after": 0.5})
    monkeypatch.setattr(resume, "scan_checkpoints", None)
    assert decide_only(tmp_path) == Finished({"after": 0.5})
    assert isinstance(decide_only(tmp_path, seed=2), Refused)


def test_another_runs_checkpoint_is_started_from(tmp_path: Path) -> None:
    run = RunDirectory.open(settings(tmp_path, run_name="earlier"))
    save(run, 3)
    path = run.checkpoints / "step-000003"
    source, found = (path, TrainState(step=3, best_step=3, world_size=1)), {"resume": str(path)}
    assert decide_only(tmp_path, path, **found) == StartFrom(source, [], None)
    (tmp_path / "run").mkdir()
    assert decide_only(tmp_path, path, **found, seed=2) == StartFrom(
        source, [Change("seed", "seed 1 -> 2")], tmp_path / "run.1"
    )
    (run.path / "config.yaml").unlink()
    assert decide_only(tmp_path, path, **found) == StartFrom(source, None, tmp_path / "run.1")


def test_a_checkpoint_that_has_all_steps_is_refused(tmp_path: Path) -> None:
    run = RunDirectory.open(settings(tmp_path, run_name="earlier"))
    save(run, 30)
    path = run.checkpoints / "step-000030"
    found = {"resume": str(run.checkpoints / "latest")}
    for steps in (6, 30):
        decision = decide_only(tmp_path, path, **found, trainer={"max_steps": steps})
        assert isinstance(decision, Refused)
        assert decision.message == (
            f"resume={found['resume']}: the checkpoint is at step 30, and trainer.max_steps={steps} counts those steps "
            "too, so nothing would be trained: set it above 30"
        )
    assert isinstance(decide_only(tmp_path, path, **found, trainer={"max_steps": 31}), StartFrom)


@pytest.mark.parametrize("finished", [False, True])
def test_a_refusal_says_how_to_train_on(tmp_path: Path, finished: bool) -> None:
    run = RunDirectory.open(settings(tmp_path, trainer={"max_steps": 30}))
    save(run, 30)
    if finished:
        (run.checkpoints / "latest").write_text("step-000030\n")
        run.write_summary({"after": 0.5})
    decision = decide_only(tmp_path, trainer={"max_steps": 60})
    assert isinstance(decision, Refused)
    assert "trains on from step 30, longer or with other settings: set trainer.max_steps, which" in decision.message
    assert decision.message.count("above 30)") == 1


def test_a_refusal_names_step_0(tmp_path: Path) -> None:
    """The only checkpoint of a run that stopped before its first evaluation."""
    save(RunDirectory.open(settings(tmp_path, trainer={"max_steps": 30})), 0)
    decision = decide_only(tmp_path, trainer={"max_steps": 60})
    assert isinstance(decision, Refused)
    assert "trains on from step 0, longer" in decision.message
    assert "above 0)" in decision.message


def test_a_refusal_of_a_run_by_epochs_names_the_setting_of_its_length(tmp_path: Path) -> None:
    save(RunDirectory.open(settings(tmp_path, trainer={"max_steps": None, "max_epochs": 1})), 30)
    decision = decide_only(tmp_path, trainer={"max_steps": None, "max_epochs": 2})
    assert isinstance(decision, Refused)
    assert "set trainer.max_epochs, which counts the epochs before it too, above those)" in decision.message
    assert "max_steps, which" not in decision.message


def test_changed_files_are_to_be_restored() -> None:
    setting = Change("seed", "seed 1 -> 2")
    file = Change("data.path", "data.path=x.jsonl: the file has other content than at the start", is_content=True)
    for changes, other, repeat in (
        ([setting], "settings", "Repeat them"),
        ([file], "files", "Restore the files"),
        ([setting, file], "settings and files", "Repeat them and restore the files"),
    ):
        message = resume.refusal(Path("run"), changes, None)
        assert message.startswith(f"run was started with other {other}: ")
        assert f". {repeat} to resume it, choose another run_name" in message


def with_stages(*names: str) -> dict[str, Any]:
    return {"stages": list(names), "stage": {name: {"loss": name} for name in names}}


def test_started_stages_are_resumed_and_may_be_followed_by_others(tmp_path: Path) -> None:
    run = RunDirectory.open(settings(tmp_path, **with_stages("sft", "grpo")))
    assert isinstance(decide_only(tmp_path, **with_stages("sft", "grpo")), Restart)
    save(RunDirectory.open(settings(run.path / "stages", run_name="1-sft")), 3)
    for later in ("grpo", "dpo"):
        decision = decide_only(tmp_path, **with_stages("sft", later))
        assert isinstance(decision, ResumeStages)
        assert decision.started == ["sft"]
    refused = decide_only(tmp_path, **with_stages("dpo", "grpo"))
    assert isinstance(refused, Refused)
    assert "remove the folders below stages/ that are to be trained again" in refused.message
    save(RunDirectory.open(settings(run.path / "stages", run_name="2-grpo")), 3)
    refused = decide_only(tmp_path, **with_stages("sft", "grpo"))
    assert isinstance(refused, Refused)
    assert "2-grpo was started from the model of stage 1, which is not finished" in refused.message


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_a_broken_file_is_a_refusal(tmp_path: Path, name: str) -> None:
    run = RunDirectory.open(settings(tmp_path))
    (run.path / name).write_text("{[")
    decision = decide_only(tmp_path)
    assert isinstance(decision, Refused)
    assert f"{name} is broken" in decision.message


def test_a_state_of_another_version_is_a_refusal(tmp_path: Path) -> None:
    run = RunDirectory.open(settings(tmp_path))
    CheckpointStore(run.checkpoints).save(3, write, {"step": 3, "unheard_of": 1})
    decision = decide_only(tmp_path)
    assert isinstance(decision, Refused)
    assert "unknown keys (unheard_of)" in decision.message


def decide_on_every_rank(root: str) -> list[str]:
    run = RunDirectory.open(settings(Path(root)))
    save(run, 3)
    decisions: list[Callable[[], Decision]] = [
        lambda: decide(settings(Path(root)), run.path),
        lambda: decide(settings(Path(root), seed=2), run.path),
        lambda: decide(settings(Path(root), resume="none"), run.path),
    ]
    return [repr(decision()) for decision in decisions]


def test_all_ranks_get_the_same_decision(tmp_path: Path) -> None:
    first, second = run_ranks(decide_on_every_rank, 2, str(tmp_path))
    assert first == second
    assert [text.split("(")[0] for text in first] == ["Resume", "Refused", "Fresh"]
