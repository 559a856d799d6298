"""Compare settings: train every configuration with every seed, each run a process of its own, and say which is better.

  python launch/ablate.py +exp=reranker_contrastive grid.loss=[bce,rank_net,list_mle] jobs=2         a grid, 3 seeds
  python launch/ablate.py +exp=reranker_bce grid.trainer.learning_rate=[1e-5,3e-5] seeds=[1,2] dry_run=true   the plan
  python launch/ablate.py +ablation=losses jobs=4                                  a file of conf/ablation, or your own
  python launch/ablate.py +exp=reranker_bce train_share=0.2 'search.trainer.learning_rate=log(1e-6,1e-3)' trials=12
  python launch/ablate.py +exp=reranker_bce grid.loss=[bce,hinge] ranks=8                 each run by torchrun, 8 GPUs
  python launch/ablate.py +exp=reranker_bce grid.loss=[bce,hinge] cluster=slurm jobs=6 submitit.slurm_partition=gpu

The same command goes on where it was: finished runs are kept, others are resumed, new values of the grid are added. It
leaves outputs/RUN_NAME/ with ablation.json, ablation.html, runs/ (a run directory each) and logs/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import os

    from launch.cli.entry import exit_quietly_on_closed_pipe, parse_arguments, prepare_process
    from launch.cli.errors import report_errors
    from launch.cli.help import ablation_page
    from launch.cli.launchers import check_launcher
    from launch.cli.overrides import config_folders
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.run_config import RunConfig


def main() -> None:
    arguments = parse_arguments()
    if arguments.help:
        exit_quietly_on_closed_pipe()
        print(ablation_page(__doc__ or "", config_folders(arguments.config_dir)))
        return
    if arguments.multirun or arguments.cfg or arguments.info:
        raise ValueError("launch/ablate.py has no --multirun, --cfg and --info: dry_run=true prints the plan")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError("start launch/ablate.py by python: ranks=N starts torchrun for each of its runs")
    prepare_process(arguments.config_dir)
    check_launcher("launch/ablate.py")
    from launch.cli.ablation import read_ablation  # torch, only once the flags are known to be right
    from launch.cli.catalog import suggest_fitting_losses
    from recipes.ablate.run import ablate
    from recipes.checks.places import check_places
    from recipes.preparation import check_settings

    def check(settings: RunConfig) -> None:
        with suggest_fitting_losses():
            check_settings(settings)
        check_places(settings)  # else each of the jobs would find out by itself

    ablate(read_ablation(arguments.overrides, arguments.config_dir, check))


if __name__ == "__main__":
    with report_errors():
        main()
