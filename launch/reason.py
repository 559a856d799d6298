"""Train a reranker that reasons before it answers: `python launch/reason.py [key=value ...]`, or `torchrun`."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.entry import run
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig) -> float:
    from launch.reasoning import reason  # torch and transformers only once the command line is known to be right

    return reason(config)


if __name__ == "__main__":
    run(main, "reason")
