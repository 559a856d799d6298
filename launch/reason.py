"""Train a reranker that reasons before it answers, by GRPO with TRL. It is evaluated and exported like any run.

  python launch/reason.py                                             the default model, on data that is already here
  torchrun --nproc_per_node=8 launch/reason.py                        by 8 GPUs
  python launch/reason.py model.name_or_path=FOLDER                   another causal language model
  python launch/reason.py data=beir data.path=FOLDER                  on your own data (docs/reference.md)
  python launch/reason.py trainer.max_steps=50 trainer.num_generations=4 run_name=short
  python launch/reason.py --cfg job                                   print all settings, train nothing

It needs TRL: pip install -c constraints.txt -e '.[reasoning]'. The same command continues an interrupted run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process, run_started
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.reasoning_run import ReasonConfig


def main(settings: ReasonConfig) -> float:
    from recipes.reasoning_run import reason  # torch, only once the command line is known to be right

    return reason(settings, on_lost_rank=end_process, on_start=run_started)


if __name__ == "__main__":
    run(main, "reason", about=__doc__)
