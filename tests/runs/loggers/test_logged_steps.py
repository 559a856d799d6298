"""Which steps count as logged, after a kill and after a change of settings."""

from __future__ import annotations

from runs.loggers.logged_steps import LoggedSteps, SavedSteps

SETTINGS = {"run_name": "a", "seed": 1, "trainer": {"learning_rate": 0.1, "log_every": 10}, "logger": {"group": None}}


def test_values_count_by_name(tmp_path):
    steps = SavedSteps(tmp_path / "logged.json", SETTINGS)
    steps.add({"train/loss": 1.0}, 20)
    assert steps.new({"train/loss": 1.0, "dev/MAP": 0.5}, 20) == {"dev/MAP": 0.5}
    again = SavedSteps(tmp_path / "logged.json", SETTINGS)
    assert again.new({"train/loss": 1.0, "dev/MAP": 0.5}, 20) == {"dev/MAP": 0.5}
    assert again.new({"train/loss": 1.0}, 21) == {"train/loss": 1.0}


def test_other_results_are_logged_again(tmp_path):
    file = tmp_path / "logged.json"
    SavedSteps(file, SETTINGS).add({"train/loss": 1.0}, 20)
    changed = {**SETTINGS, "seed": 2}
    assert SavedSteps(file, changed).new({"train/loss": 1.0}, 20) == {"train/loss": 1.0}
    same = {**SETTINGS, "trainer": {"learning_rate": 0.1, "log_every": 5}, "logger": {"group": "b"}}
    assert SavedSteps(file, same).new({"train/loss": 1.0}, 20) == {}


def test_a_broken_file_counts_as_none(tmp_path):
    file = tmp_path / "logged.json"
    for text in ("", '{"settings"', "[]", '{"settings": 1, "last": null}'):
        file.write_text(text)
        assert SavedSteps(file, SETTINGS).new({"train/loss": 1.0}, 1) == {"train/loss": 1.0}


def test_a_stage_starts_at_the_last_step_of_the_one_before():
    steps = LoggedSteps()
    steps.add({"dev/MAP": 0.5, "stage": 1}, 20)
    steps.add({"test/MAP": 0.6, "stage": 1}, 20)
    assert steps.new({"dev/MAP": 0.7, "stage": 2}, 20) == {"dev/MAP": 0.7, "stage": 2}
    assert steps.new({"dev/MAP": 0.5, "stage": 1}, 20) == {}
    assert steps.new({"test/MAP": 0.6, "stage": 2}, 20) == {}
