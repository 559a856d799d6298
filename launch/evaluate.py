"""Evaluate a ranker: `python launch/evaluate.py data=beir data.path=FOLDER model=bm25|bi_encoder|cross_encoder ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.entry import run
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig) -> object:
    from launch.evaluating import evaluate  # torch and transformers only once the command line is known to be right

    return evaluate(config)


if __name__ == "__main__":
    run(main, "evaluate")
