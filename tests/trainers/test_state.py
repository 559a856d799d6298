"""The state of a trainer: saved and loaded whole."""

from __future__ import annotations

import json

import pytest

from engines.checkpoint.store import BEST_STEP
from trainers.state import TrainState


def make_state() -> TrainState:
    """A state in which no field has its default."""
    return TrainState(
        step=7,
        best_metric=0.5,
        best_step=4,
        evaluations_since_best=2,
        totals={"seconds": 1.5, "rows": 20, "tokens": 300},
        truncation={"queries": 4, "cut_queries": 0, "documents": 8, "cut_documents": 3},
        source_losses={"a": [1.5, 2.0]},
        pending_evaluation=True,
        skipped_batches=[2, 5],
        teacher_scales={"a": [0.1, 2.0]},
        score_scale=[0.1, 2.0],
        refreshed_step=6,
        family={"batch": 3, "old": {"scores": [[0.25, -1.0]]}},
        engine="zero2",
        world_size=4,
        ranks_per_node=2,
        wandb_run_id="abcd",
    )


def test_what_is_saved_is_loaded() -> None:
    state, default = make_state(), TrainState().to_dict()
    assert not [name for name, value in state.to_dict().items() if value == default[name]]
    assert TrainState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_a_saved_state_does_not_change_with_the_next_step() -> None:
    state = make_state()
    saved = state.to_dict()
    before = json.dumps(saved)
    state.add_totals(seconds=0.5, rows=1, tokens=2)
    state.skip_batch(1)
    state.totals["rows"] = 0
    state.family["old"]["scores"][0][0] = 9.0
    assert json.dumps(saved) == before


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown keys \(owes\): another version wrote it; .*resume=none"):
        TrainState.from_dict({"step": 1, "owes": True})


def test_the_store_finds_the_best_step_under_its_key() -> None:
    assert make_state().to_dict()[BEST_STEP] == 4


def test_totals_and_skipped_batches_add_up() -> None:
    state = TrainState(skipped_batches=[5])
    for _ in range(2):
        state.add_totals(seconds=0.5, rows=3, tokens=40)
        state.skip_batch(2)
    assert state.totals == {"seconds": 1.0, "rows": 6, "tokens": 80}
    assert state.skipped_batches == [2, 5]


def test_a_pending_evaluation_is_not_done() -> None:
    assert TrainState(step=6).last_evaluated_step == 6
    assert TrainState(step=6, pending_evaluation=True).last_evaluated_step == 5


@pytest.mark.parametrize(("same_batches", "skipped"), [(True, [2, 5]), (False, [])])
def test_for_changed_settings_the_start_is_measured(same_batches: bool, skipped: list[int]) -> None:
    state = make_state()
    other = state.for_changed_settings(same_batches=same_batches)
    assert (other.best_metric, other.best_step, other.pending_evaluation) == (None, None, True)
    assert other.refreshed_step == (6 if same_batches else None)
    assert (other.step, other.totals, other.skipped_batches) == (7, state.totals, skipped)
    assert (other.teacher_scales, other.score_scale) == ({}, state.score_scale), "another teacher, the same head"
    assert state == make_state()
