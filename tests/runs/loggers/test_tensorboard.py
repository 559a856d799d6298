"""TensorBoard: its own reader finds the scalars of each split and the HParams; a fault ends no run."""

from __future__ import annotations

from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from runs.directory import RunDirectory
from runs.loggers.logger import NoLogger
from runs.loggers.tensorboard import TensorBoardConfig, hyperparameters

SETTINGS = {
    "run_name": "a",
    "resume": "auto",
    "seed": 3,
    "loss": {"_target_": "losses.list_net.ListNet", "temperature": 0.5, "access_token": "secret"},
    "trainer": {"_target_": "trainers.supervised.RankingTrainerConfig", "learning_rate": 1e-5, "log_every": 10},
    "logger": {"_target_": "runs.loggers.tensorboard.TensorBoardConfig"},
}
SUMMARY = {"steps": 20, "best_dev": 0.7, "metrics": {"before": {"MAP": 0.1}, "after": {"MAP": 0.6}}}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.open({"run_name": "a", "output_dir": str(tmp_path), "resume": "auto"})


def read(run: RunDirectory) -> EventAccumulator:
    return EventAccumulator(str(run.path / "tensorboard")).Reload()


def points(reader: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in reader.Scalars(tag)]


def test_a_killed_and_resumed_run_has_each_step_once(run):
    logger = TensorBoardConfig().build(run, SETTINGS)
    for step in (10, 20):
        logger.log({"train/loss": step / 10, "train/kl": 0.1}, step)
    del logger  # killed: nothing is closed
    again = TensorBoardConfig().build(run, SETTINGS)
    for step in (20, 30):
        again.log({"train/loss": step / 10}, step)
    again.log({"dev/MAP": 0.5}, 30)
    again.finish(SUMMARY)
    reader = read(run)
    assert points(reader, "train/loss") == [(10, 1.0), (20, 2.0), (30, 3.0)]
    assert points(reader, "train/kl") == [(10, 0.1), (20, 0.1)]
    assert points(reader, "dev/MAP") == [(30, 0.5)]


def test_hparams_hold_the_settings_of_the_result_and_the_final_metrics(run):
    TensorBoardConfig().build(run, SETTINGS).finish(SUMMARY)
    reader = read(run)
    content: dict[str, Any] = {}
    for name, data in reader.PluginTagToContent("hparams").items():
        content[name] = plugin_data_pb2.HParamsPluginData.FromString(data)
    started = content["_hparams_/session_start_info"].session_start_info.hparams
    assert started["trainer.learning_rate"].number_value == 1e-5
    assert started["loss"].string_value == "ListNet"
    assert started["loss.access_token"].string_value == "***"
    assert not {"run_name", "resume", "logger", "trainer.log_every"} & set(started)
    metrics = [info.name.tag for info in content["_hparams_/experiment"].experiment.metric_infos]
    assert metrics == ["best_dev", "final/before/MAP", "final/after/MAP"]
    assert [points(reader, tag) for tag in metrics] == [[(20, 0.7)], [(20, 0.1)], [(20, 0.6)]]


def test_stages_that_are_not_trained_are_no_hparams():
    stage = {name: {"loss": {"_target_": f"losses.{name}.Loss"}} for name in ("grpo", "preference")}
    assert hyperparameters({"stages": ["grpo"], "stage": stage}) == {"stages": "['grpo']", "stage.grpo.loss": "Loss"}


def test_a_run_that_fails_keeps_what_it_has_logged(run):
    logger = TensorBoardConfig().build(run, SETTINGS)
    logger.log({"train/loss": 1.0}, 1)
    logger.alert("a batch is not finite", "step 2")
    logger.stop(ValueError("a mistake"))
    reader = read(run)
    assert points(reader, "train/loss") == [(1, 1.0)]
    assert reader.Tensors("alerts/text_summary")[0].tensor_proto.string_val == [b"a batch is not finite: step 2"]


def test_a_tensorboard_that_fails_ends_no_run(run, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    logger = TensorBoardConfig().build(run, {})
    monkeypatch.setattr(logger.writer, "add_scalar", full)
    for step in (1, 2):
        logger.log({"train/loss": 1.0}, step)
    logger.finish({})
    assert capsys.readouterr().err.count("warning: the run continues without TensorBoard: OSError: [Errno 28]") == 1


def test_other_ranks_track_nothing(run, monkeypatch):
    monkeypatch.setattr("runs.loggers.tensorboard.is_main", lambda: False)
    assert isinstance(TensorBoardConfig().build(run, {}), NoLogger)
