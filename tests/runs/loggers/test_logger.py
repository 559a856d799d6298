"""The logger of a stage."""

from __future__ import annotations

from runs.loggers.logger import NoLogger, StageLogger


def test_a_stage_counts_on_and_does_not_end_the_record():
    class Kept(NoLogger):
        def __init__(self):
            self.lines, self.alerts = [], []

        def log(self, metrics, step):
            self.lines.append((step, dict(metrics)))

        def alert(self, title, text):
            self.alerts.append((title, text))

        def finish(self, summary):
            raise AssertionError("only the run ends the record")

        def stop(self, error):
            raise AssertionError("only the run ends the record")

    kept = Kept()
    stage = StageLogger(kept, number=2, first_step=100)
    stage.log({"train/loss": 0.5}, 3)
    stage.alert("a batch is not finite", "step 3")
    stage.finish({})
    stage.stop(ValueError())
    assert kept.lines == [(103, {"train/loss": 0.5, "stage": 2})]
    assert kept.alerts == [("a batch is not finite", "stage 2: step 3")]
