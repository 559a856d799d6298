"""Train a retrieval model: `torchrun launch/train.py +exp=reranker_grpo [key=value ...]`; `python`: one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.catalog import naming_losses_that_fit
    from launch.cli.entry import run
    from launch.cli.errors import end_process, run_begun
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.run_config import RunConfig


def main(settings: RunConfig) -> float | None:
    from recipes.training_run import train

    with naming_losses_that_fit():
        return train(settings, on_lost_rank=end_process, on_begin=run_begun)


if __name__ == "__main__":
    run(main)
