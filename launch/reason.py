"""Train a reranker that reasons before it answers: `python launch/reason.py [key=value ...]`, or `torchrun`."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process, run_begun
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.reasoning_run import ReasonConfig


def main(settings: ReasonConfig) -> float:
    from recipes.reasoning_run import reason  # torch and transformers only once the command line is known to be right

    return reason(settings, on_lost_rank=end_process, on_begin=run_begun)


if __name__ == "__main__":
    run(main, "reason")
