"""Train a retrieval model: `torchrun launch/train.py +exp=reranker_grpo [key=value ...]`; `python`: one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.entry import run
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig) -> float | None:
    from launch.training import train  # torch and transformers only once the command line is known to be right

    return train(config)


if __name__ == "__main__":
    run(main)
