"""Train a retrieval model: evaluate it on test, train it, choose the best checkpoint on dev, evaluate again, export.

  python launch/train.py                                              the default reranker, on data that is already here
  torchrun --nproc_per_node=8 launch/train.py +exp=reranker_grpo      one experiment, by 8 GPUs
  python launch/train.py +exp=embedder_infonce data=beir data.path=FOLDER       on your own data (docs/reference.md)
  python launch/train.py +exp=reranker_listwise loss=rank_net trainer.max_steps=200 run_name=first
  torchrun --nproc_per_node=8 launch/train.py +exp=llm_reranker_sft engine=zero3      sharded weights, by DeepSpeed
  python launch/train.py -m +exp=reranker_listwise trainer.learning_rate=1e-5,3e-5    one run for each value
  python launch/train.py +exp=reranker_grpo --cfg job                 print all settings, train nothing

The same command continues an interrupted run. A run leaves outputs/RUN_NAME/ with summary.json, report.html and model/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process, run_started
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.run_config import RunConfig


def main(settings: RunConfig) -> float | None:
    from launch.cli.catalog import suggest_fitting_losses  # torch, only once the command line is known to be right
    from recipes.training_run import train

    with suggest_fitting_losses():
        return train(settings, on_lost_rank=end_process, on_start=run_started)


if __name__ == "__main__":
    run(main, "train", about=__doc__)
