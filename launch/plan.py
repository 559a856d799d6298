"""Predict the memory and the time of a training run, by engine and number of ranks, before it is started.

  python launch/plan.py +exp=reranker_grpo                                on this machine
  python launch/plan.py +exp=llm_reranker_sft --device cuda --memory 80   on GPUs of 80 GiB
  python launch/plan.py +exp=embedder_large_batch --ranks 1,8,16          on other numbers of ranks
  python launch/plan.py +exp=embedder_large_batch --device cuda --memory 80 --gpu a100 --network 200 --ranks 8,64,512
  python launch/plan.py +exp=reranker_grpo --longest                      without reading the data
  python launch/plan.py +exp=reranker_grpo --json                         for another program

The table gives the peak memory of a rank for each engine and number of ranks, whether it fits, the bytes that a rank
receives in a step, and the time of the step, at the rates that the last lines name.
"""

from __future__ import annotations

try:
    import argparse
    import json
    import math
    from collections.abc import Sequence

    from launch.cli.arguments import Parser, run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    from launch.cli.catalog import suggest_fitting_losses  # torch, only once the arguments are known to be right
    from launch.cli.compose import load
    from launch.cli.entry import import_from_working_directory
    from recipes.cost_plan.estimate import Machine, make_plans
    from recipes.cost_plan.hardware import Assumptions
    from recipes.cost_plan.report import as_json, report

    if options.config_dir is not None:
        import_from_working_directory()
    settings = load(options.settings, "train", options.config_dir)
    assumptions = Assumptions(options.gpu, network_gbit=options.network)
    machine = Machine.detect(options.device, options.memory, options.ranks_per_node, assumptions)
    with suggest_fitting_losses():
        plans = make_plans(settings, machine, ranks=options.ranks, reads_data=not options.longest)
    if options.json:
        print(json.dumps({name: as_json(plan) for name, plan in plans.items()}, indent=1))
    else:
        print("\n\n".join("\n".join([f"{name}:", *report(plan)]) for name, plan in plans.items()))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__, lists_experiments=True)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="as for launch/train.py: +exp=NAME, ...")
    parser.add_argument("--ranks", type=_ranks, default=[1, 2, 4, 8], metavar="N,N", help="default 1,2,4,8")
    parser.add_argument(
        "--memory", type=_positive, metavar="GIB", help="of a GPU or of a CPU node; default: this one's"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: what this machine has")
    parser.add_argument(
        "--ranks-per-node", type=_count, metavar="N", help="default: all on a CPU node, 8 GPUs on others"
    )
    parser.add_argument("--gpu", choices=("a100", "h100", "h200"), default="h100", help="whose rates are assumed")
    parser.add_argument(
        "--network",
        type=_positive,
        default=400.0,
        metavar="GBIT",
        help="per second, of a GPU to other nodes; default 400",
    )
    parser.add_argument("--longest", action="store_true", help="without the data: all rows of model.max_length tokens")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--config-dir", metavar="DIR", help="as for launch/train.py")
    return parser.parse_intermixed_args(arguments)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a number above 0")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number of at least 1")
    return int(text)


def _ranks(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text}: numbers of at least 1, such as 1,2,8")
    return [int(part) for part in parts]


if __name__ == "__main__":
    run_command(main)
