"""Evaluate a ranker: `python launch/evaluate.py data=beir data.path=FOLDER model=bm25|bi_encoder|cross_encoder ...`."""

from __future__ import annotations

from launch.entry import run

if __name__ == "__main__":
    from launch.evaluating import evaluate

    run(evaluate, "evaluate")
