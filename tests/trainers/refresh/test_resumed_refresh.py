"""A run that is stopped anywhere draws the same lists afterwards as one that is not."""

from __future__ import annotations

import json
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from running import make_trainer, metrics_of, run_to_the_end, run_until

from engines.checkpoint.store import read_state
from engines.distributed import preemption
from engines.protocol import NotFinite
from launch.cli.compose import load
from runs.directory import RunDirectory
from runs.settings_tree import as_tree

STEPS = 9
SETTINGS = [f"trainer.max_steps={STEPS}", "trainer.eval_every=4", "trainer.refresh_every=3", "data.lists.hard_depth=4"]
# In-batch negatives without a text twice: which lists share a batch depends on their documents, so on the refreshes.
EMBEDDER = [
    "+exp=embedder_infonce",
    "eval.depth=100",
    "trainer.list_size=4",
    "trainer.refresh_depth=9",
    *SETTINGS,
    "trainer.batch_size=4",
    "eval.dev_max_queries=3",
]
RERANKER = ["+exp=reranker_contrastive", *SETTINGS]


@pytest.mark.parametrize("experiment", [EMBEDDER, RERANKER], ids=["embedder", "reranker"])
@pytest.mark.parametrize(("save_every", "steps"), [(1, (3, 5)), (2, (4, 7))])
def test_a_run_stopped_at_any_step(
    experiment: list[str], save_every: int, steps: tuple[int, ...], tiny_run: list[str]
) -> None:
    """The newest checkpoint is one of the step of a refresh, of a step soon after it, or one long after it."""
    settings = [*tiny_run, *experiment, f"trainer.save_every={save_every}", "trainer.keep_checkpoints=1"]
    whole, weights = run_to_the_end([*settings, "run_name=whole"])
    assert {line["refreshed_step"] for line in whole if line["split"] == "train"} == {0, 3, 6}
    for step in steps:
        run_until([([*settings, f"run_name=stopped{step}"], step)])
        again, found = run_to_the_end([*settings, f"run_name=stopped{step}"])
        assert again == whole, f"stopped at step {step}"
        assert all((found[name] == weights[name]).all() for name in weights)


def test_batches_planned_again_after_a_refresh_draw_each_query_once(tiny_run: list[str]) -> None:
    """Without regard to texts that lists share: a batch that avoids them all may have to repeat a query."""
    settings = ["trainer.refresh_every=2", "data.lists.no_duplicates=false"]
    trainer = make_trainer([*tiny_run, *EMBEDDER, *settings])
    queries: list[str] = []
    next_batch = trainer.next_batch

    def noted() -> Any:
        batch = next_batch()
        queries.extend(example.query_id for example in batch.examples)
        return batch

    trainer.next_batch = noted
    trainer.fit()
    assert len(set(queries[:24])) == 24  # an epoch: 6 batches of 4


def test_the_checkpoint_alone_is_enough(tiny_run: list[str]) -> None:
    """The folder of the refresh in the run directory is lost; the weights that made it have changed since."""
    settings = [*tiny_run, *EMBEDDER, "trainer.save_every=2"]
    whole = run_to_the_end([*settings, "run_name=whole"])[0]
    run_until([([*settings, "run_name=stopped"], 5)])
    (folder,) = [option.split("=", 1)[1] for option in settings if option.startswith("output_dir=")]
    stopped = Path(folder) / "stopped"
    shutil.rmtree(stopped / "refresh")
    (checkpoint,) = (stopped / "checkpoints").glob("step-000004")
    assert read_state(checkpoint)["refreshed_step"] == 3
    assert run_to_the_end([*settings, "run_name=stopped"])[0] == whole


def test_another_run_starts_from_the_checkpoint(tiny_run: list[str]) -> None:
    settings = [*tiny_run, *EMBEDDER, "trainer.save_every=2"]
    run_until([([*settings, "run_name=stopped"], 5)])
    (folder,) = [option.split("=", 1)[1] for option in settings if option.startswith("output_dir=")]
    start = f"resume={Path(folder) / 'stopped' / 'checkpoints' / 'latest'}"

    def refreshed(*options: str) -> list[int | None]:
        lines = run_to_the_end([*settings, start, *options])[0]
        return [line.get("refreshed_step") for line in lines if line["split"] == "train"]

    assert refreshed("run_name=longer", "trainer.max_steps=10") == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]
    assert refreshed("run_name=none", "trainer.refresh_every=0") == [0, 0, 0, 3, None, None, None, None, None]
    # Other lists: those of the old run are forgotten, and what was missed is made at once.
    assert refreshed("run_name=other", "data.lists.hard_depth=5") == [0, 0, 0, 3, 4, 4, 6, 6, 6]


@pytest.mark.parametrize("option", ["trainer.refresh_every=2", "seed=2"])
def test_a_run_is_not_resumed_with_another_refresh(option: str, tiny_run: list[str]) -> None:
    settings = [*tiny_run, *EMBEDDER, "trainer.save_every=2", "run_name=stopped"]
    run_until([(settings, 3)])
    with pytest.raises(ValueError, match=rf"started with other settings: {option.split('=')[0]} .* -> "):
        RunDirectory.open(as_tree(load([*settings, option])))


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("bad", [2, 3])  # the batch before a refresh, and the first after it
def test_a_batch_that_is_left_out(policy: str, bad: int, tiny_run: list[str]) -> None:
    settings = [*tiny_run, *RERANKER, f"trainer.on_nonfinite={policy}", "trainer.save_every=2"]

    def run(name: str, stop_at: int | None = None) -> Any:
        trainer = make_trainer([*settings, f"run_name={name}"])
        objective = trainer.objective

        def broken(lists: Any, batch: Any) -> Any:
            if trainer.state.step == stop_at:
                raise KeyboardInterrupt
            if batch.number == bad:
                raise NotFinite("broken")
            return objective(lists, batch)

        trainer.objective = broken
        with suppress(KeyboardInterrupt):
            trainer.fit()
        return trainer

    whole = metrics_of(run("whole"))
    assert [line["refreshed_step"] for line in whole if line["split"] == "train"] == [0, 0, 0, 3, 3, 3, 6, 6, 6]
    run("stopped", stop_at=8)
    assert metrics_of(run("stopped")) == whole
    without = make_trainer([*settings, "run_name=without"])
    without.state.skipped_batches = [bad]
    without.fit()
    assert metrics_of(without) == whole


def test_a_preemption_during_a_refresh(tiny_run: list[str]) -> None:
    settings = [*tiny_run, *EMBEDDER, "trainer.save_every=100"]
    whole = run_to_the_end([*settings, "run_name=whole"])[0]
    trainer = make_trainer([*settings, "run_name=preempted"])
    refresh = trainer.refresher.refresh

    def signalled(*arguments: Any, **options: Any) -> int:
        signal.raise_signal(signal.SIGTERM)
        return refresh(*arguments, **options)

    trainer.refresher.refresh = signalled
    with preemption.handle_signals():
        preemption.defer_signals()
        with pytest.raises(preemption.Preempted, match="at step 3"):
            trainer.fit()
    state = json.loads((trainer.run.path / "checkpoints" / "step-000003" / "trainer_state.json").read_text())
    assert (state["refreshed_step"], state["pending_evaluation"]) == (None, False)
    again = make_trainer([*settings, "run_name=preempted"])
    again.fit()
    assert metrics_of(again) == whole
