"""Which steps count as logged, after a kill and after a change of settings."""

from __future__ import annotations

from runs.loggers.logged_steps import LoggedSteps

SETTINGS = {"run_name": "a", "seed": 1, "trainer": {"learning_rate": 0.1, "log_every": 10}, "logger": {"group": None}}


def test_values_count_by_name(tmp_path):
    steps = LoggedSteps(tmp_path / "wandb" / "logged.json", SETTINGS)
    steps.add({"train/loss": 1.0}, 20)
    assert steps.new({"train/loss": 1.0, "dev/MAP": 0.5}, 20) == {"dev/MAP": 0.5}
    again = LoggedSteps(tmp_path / "wandb" / "logged.json", SETTINGS)
    assert again.new({"train/loss": 1.0, "dev/MAP": 0.5}, 20) == {"dev/MAP": 0.5}
    assert again.new({"train/loss": 1.0}, 21) == {"train/loss": 1.0}


def test_other_results_are_logged_again(tmp_path):
    file = tmp_path / "logged.json"
    LoggedSteps(file, SETTINGS).add({"train/loss": 1.0}, 20)
    changed = {**SETTINGS, "seed": 2}
    assert LoggedSteps(file, changed).new({"train/loss": 1.0}, 20) == {"train/loss": 1.0}
    same = {**SETTINGS, "trainer": {"learning_rate": 0.1, "log_every": 5}, "logger": {"group": "b"}}
    assert LoggedSteps(file, same).new({"train/loss": 1.0}, 20) == {}


def test_a_broken_file_counts_as_none(tmp_path):
    file = tmp_path / "logged.json"
    for text in ("", '{"settings"', "[]", '{"settings": 1, "last": null}'):
        file.write_text(text)
        assert LoggedSteps(file, SETTINGS).new({"train/loss": 1.0}, 1) == {"train/loss": 1.0}
