"""Train a reranker: `torchrun launch/train.py +exp=reranker_grpo [key=value ...]`, or `python` for one process."""

from __future__ import annotations

from omegaconf import DictConfig

from launch.entry import run


def main(config: DictConfig) -> float | None:
    from launch.training import train  # torch and transformers only once the command line is known to be right

    return train(config)


if __name__ == "__main__":
    run(main)
