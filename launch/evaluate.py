"""Evaluate a ranker: `python launch/evaluate.py data=beir data.path=FOLDER model=bm25|bi_encoder|cross_encoder ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.evaluation_run import EvaluationConfig


def main(settings: EvaluationConfig) -> float:
    from recipes.evaluation_run import (
        evaluate,  # torch and transformers only once the command line is known to be right
    )

    return evaluate(settings, on_lost_rank=end_process)


if __name__ == "__main__":
    run(main, "evaluate")
