"""The advice of a training that did not beat its start: each finding from what was measured, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.evaluator import EvaluationResult
from evaluation.metrics import Metrics
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.rewards import NDCG
from losses.softmax_cross_entropy import SoftmaxCrossEntropy
from recipes.advice import Measured, Trend, advice, measured_in
from runs.report.content import remarks
from trainers.source_losses import SourceLosses
from trainers.supervised import SupervisedTrainerConfig

OPTIONS = SupervisedTrainerConfig(learning_rate=1e-3)
# A loss that fell a little, a dev whose interval is not known, a start far from the best value.
NOTHING = Measured(
    metric="nDCG@10",
    trend=Trend("loss", 1.0, 0.97, noise=0.01),
    has_zero_minimum=True,
    gradient_norms=[0.5] * 10,
    idle_share=0.0,
    dev=[0.5, 0.4],
    dev_queries=100,
    dev_margin=None,
    num_skipped=0,
    epochs=0.5,
    start=0.5,
    limit=0.9,
    recall=0.95,
    suspected=None,
)


def advised(**changes: Any) -> str:
    return advice(replace(NOTHING, **changes), OPTIONS)


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({}, "nothing stands out (loss from 1 to 0.97, 0.5 epochs): try another trainer.learning_rate (0.001) first"),
        ({"num_skipped": 2}, "2 batches were not finite: lower trainer.learning_rate (0.001)"),
        (
            {"trend": Trend("loss", 1.0, 2.0, 0.1), "gradient_norms": [0.5, 2.0, 3.0, 4.0]},
            "the loss rose from 1 to 2 (gradients were clipped in 75% of the steps): lower trainer.learning_rate",
        ),
        ({"trend": Trend("reward", 0.6, 0.4, 0.1)}, "the reward fell from 0.6 to 0.4"),
        ({"idle_share": 0.8}, "in 80% of the lists all samples had the same reward, which teaches nothing: raise"),
        ({"trend": Trend("loss", 0.01, 0.009, 0.001)}, "the loss was 0.01 from the start, so the negatives are"),
        (
            {"trend": Trend("loss", 0.01, 0.01, 0.001), "has_zero_minimum": False},
            "the loss did not move beyond its noise (from 0.01 to 0.01, 0.5 epochs): raise trainer.learning_rate",
        ),
        ({"trend": Trend("reward", 0.5, 0.52, 0.1)}, "the reward did not move beyond its noise (from 0.5 to 0.52"),
        ({"suspected": (30, 100)}, "30 of 100 mined negatives may be relevant (negatives.jsonl.audit.html): raise"),
        (
            {"trend": Trend("loss", 1.0, 0.5, 0.1)},
            "the loss went from 1 to 0.5 while nDCG@10 on dev fell from 0.5000 to 0.4000: lower trainer.learning_rate",
        ),
        (
            {"trend": Trend("loss", 1.0, 0.5, 0.1), "epochs": 4.0},
            "fell from 0.5000 to 0.4000 in 4 epochs: train fewer (trainer.max_epochs=1)",
        ),
        (
            {"dev_margin": 0.05, "trend": None},
            "nDCG@10 on dev fell from 0.5000 to 0.4000 at best, beyond its 95% interval (± 0.0500): lower",
        ),
        (
            {"start": 0.88, "recall": 0.6},
            "the start has nDCG@10 0.8800 of at most 0.9000 on test, as 60% of the relevant documents are candidates",
        ),
        ({"start": 0.97, "limit": None}, "the start has nDCG@10 0.9700 of at most 1.0000 on test: measure what it can"),
        (
            {"dev": [0.5, 0.4, 0.48], "dev_margin": 0.05},
            "the best later nDCG@10 on dev (0.4800) is inside the 95% interval of the start (0.5000 ± 0.0500, 100",
        ),
    ],
)  # fmt: skip
def test_each_finding(changes: dict[str, Any], finding: str) -> None:
    line = advised(**changes)
    assert line.startswith("advice: ")
    assert finding in line
    assert "\n" not in line
    assert ("nothing stands out" in line) == (not changes)


def test_what_is_not_measured_is_not_said() -> None:
    assert "nothing stands out (0.5 epochs)" in advised(trend=None, dev=[0.5], dev_margin=None)
    assert "nothing stands out" in advised(suspected=(1, 100))
    assert "rose" not in (line := advised(trend=Trend("loss", 1.0, 1.1, noise=0.2)))
    assert "did not move beyond its noise" in line
    assert Trend.of("loss", [1.0] * 3) is None


def test_a_rate_is_not_to_be_raised_and_lowered() -> None:
    line = advised(trend=Trend("loss", 2.8, 3.4, noise=1.2), dev_margin=0.05)
    assert "on dev fell from 0.5000 to 0.4000" in line
    assert "raise trainer.learning_rate" not in line


def test_the_most_important_two_findings_are_one_line() -> None:
    line = advised(num_skipped=1, idle_share=0.9, suspected=(50, 100), start=0.9)
    assert line.count(";") == 1
    assert "not finite" in line
    assert "same reward" in line


def test_a_trend_compares_quarters_beyond_their_noise() -> None:
    trend = Trend.of("loss", [1.0, 1.2, 0.9, 0.9, 0.8, 0.9, 0.4, 0.6])
    assert trend is not None
    assert (trend.first, trend.last) == (pytest.approx(1.1), pytest.approx(0.5))
    # sample variances of 0.02 in quarters of 2 steps
    assert trend.noise == pytest.approx(2 * (0.04 / 2) ** 0.5)
    assert trend.has_moved
    assert not trend.has_stayed
    assert trend.gain == pytest.approx(0.6)


def test_what_a_run_has_measured_is_read_from_its_folder(tmp_path: Path) -> None:
    train = [{"step": n, "split": "train", "loss": 1.0 + n, "grad_norm": 2.0 * n} for n in range(1, 9)]
    train[2]["loss"] = None  # NaN
    dev = [{"step": step, "split": "dev", "nDCG@10": value} for step, value in ((0, 0.5), (4, 0.25), (8, 0.25))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*train, *dev]))
    (tmp_path / "negatives.jsonl.audit.json").write_text(json.dumps({"suspected_negatives": 3, "filled": 9}))
    summary = {"metric": "nDCG@10", "epochs": 2.0, "before": 0.4, "ceiling": {"nDCG@10": 0.8}, "recall_ceiling": 0.7}
    start = EvaluationResult(Metrics({"nDCG@10": 0.5}, {"nDCG@10": {"a": 0.0, "b": 1.0, "c": 0.5}}), {})
    found = measured_in(tmp_path, summary, SourceLosses(SoftmaxCrossEntropy()), start, skipped=1)
    assert found.trend is not None
    assert (found.trend.first, found.trend.last) == (2.5, 8.5)  # of 7 losses, the first and the last two
    assert (found.dev, found.dev_queries, found.suspected) == ([0.5, 0.25, 0.25], 3, (3, 9))
    assert 0 < found.dev_margin <= 0.5
    assert (found.limit, found.recall, found.num_skipped, found.has_zero_minimum) == (0.8, 0.7, 1, True)
    assert found.gradient_norms[-1] == 16
    policy = measured_in(tmp_path, summary, SourceLosses(PlackettLuceGRPO(reward=NDCG(k=10))), None, skipped=0)
    assert (policy.has_zero_minimum, policy.dev_margin, policy.trend) == (False, None, None)


def test_it_stands_beside_the_note() -> None:
    summary = {"metric": "nDCG@10", "before": 0.5, "best_step": 0, "advice": "advice: lower it", "stopped_early": True}
    summary |= {"steps": 3, "max_steps": 9}
    lines = remarks(summary)
    note = next(index for index, line in enumerate(lines) if "no checkpoint beat the starting model" in line)
    assert lines[note + 1] == "advice: lower it"
    assert any("training ended early, at step 3 of 9" in line for line in lines)
    lines = remarks({**summary, "best_step": 2})
    note = lines.index("note: no checkpoint after the one that it started from beat step 2 on dev, which is exported")
    assert lines[note + 1] == "advice: lower it"
    assert not [line for line in remarks({**summary, "best_step": 2, "advice": None}) if "no checkpoint" in line]


def test_of_a_run_from_a_checkpoint_the_steps_after_it_count(tmp_path: Path) -> None:
    lines = [{"step": n, "split": "train", "loss": float(n)} for n in range(1, 21)]
    lines += [{"step": step, "split": "dev", "nDCG@10": 0.01 * step} for step in (0, 10)]
    lines += [{"step": 20, "split": "dev", "nDCG@10": 0.05}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {"metric": "nDCG@10", "epochs": 2.0, "before": 0.4}
    found = measured_in(tmp_path, summary, SourceLosses(SoftmaxCrossEntropy()), None, 0, best_step=10)
    assert found.dev == [0.1, 0.05]
    assert found.trend is not None
    assert found.trend.first == 11.5
