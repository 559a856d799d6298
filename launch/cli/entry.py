"""Run a command whose options are settings: prepare the process, compose the settings, report errors."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from launch.cli import foreign_names
from launch.cli.compose import compose, instantiate
from launch.cli.errors import exit_if_wandb_hangs, report_errors, set_run_folder
from launch.cli.help import help_page
from launch.cli.launchers import check_launcher
from launch.cli.overrides import Sources, config_folders
from runs.redaction import redact_tree
from runs.source_tree import CONF, PACKAGES, ROOT

Main = Callable[[Any], object]  # called with the settings, an object of the class that the configuration's root names


def run(
    main: Main,
    config_name: str = "train",
    about: str | None = None,
    option_names: Mapping[str, str] | None = None,
) -> None:
    """Compose `config_name` from the command line and call `main` with the settings. `about` is the first part of
    --help, `option_names` are those of `report_errors`.

    Hydra's own main function runs only for --multirun, --cfg hydra and --info. So by default there is no Hydra
    directory or log file, and the working directory does not change. Under --multirun every job is named
    run_name-OVERRIDES, and what `main` returns is the value that a sweeper (Optuna) optimises.
    """
    with report_errors(option_names):
        arguments = parse_arguments()
        config_name = arguments.config_name or config_name
        if arguments.help:
            show_help(about or "", config_name, arguments.config_dir)
            return
        prepare_process(arguments.config_dir)
        if not arguments.cfg:
            check_launcher(f"launch/{Path(sys.argv[0]).name}")
        if arguments.multirun:
            sweep(main, config_name, arguments)
        elif arguments.cfg or arguments.hydra_help or arguments.info or arguments.shell_completion:
            show_config(config_name, arguments)
        else:
            call_main(main, compose(arguments.overrides, config_name, arguments.config_dir))
    exit_if_wandb_hangs()


def show_help(about: str, config_name: str, config_dir: str | None) -> None:
    """Print the command's --help on rank 0."""
    exit_quietly_on_closed_pipe()
    if is_rank_0():
        print(help_page(about, config_name, config_folders(config_dir)))


def call_main(main: Main, tree: Mapping[str, Any]) -> object:
    """Build the settings and call `main` with them."""
    if "run_name" in tree and "output_dir" in tree:
        set_run_folder(Path(tree["output_dir"]) / tree["run_name"])
    return main(instantiate(tree))


def sweep(main: Main, config_name: str, arguments: argparse.Namespace) -> None:
    """Run Hydra's --multirun. Each job is composed and checked separately, and named after its own overrides."""

    def job(_: object) -> object:
        with report_errors():  # inside Hydra, which would otherwise print a line of its own first
            redact_multirun_file(Path(HydraConfig.get().sweep.dir))
            overrides = list(HydraConfig.get().overrides.task)
            tree = compose(overrides, config_name, arguments.config_dir)
            own = sorted(override.lstrip("+") for override in overrides if override not in hydra_overrides)
            tree["run_name"] = "-".join([tree["run_name"], *own]).replace("/", "_")
            return call_main(main, tree)

    hydra_overrides = Sources.parse(arguments.overrides, config_name, arguments.config_dir).hydra_overrides
    try:
        run_hydra(job, config_name, arguments.overrides, hydra_overrides)
    finally:  # also if no job was started
        folders = [override.partition("=")[2] for override in arguments.overrides if override.startswith("output_dir=")]
        redact_multirun_file(Path(folders[-1] if folders else "outputs"))


def redact_multirun_file(sweep_folder: Path) -> None:
    """Redact the file to which Hydra's sweeper writes the command line."""
    file = sweep_folder / "multirun.yaml"
    if is_rank_0() and file.is_file():
        OmegaConf.save(OmegaConf.create(redact_tree(OmegaConf.to_container(OmegaConf.load(file)))), file)


def show_config(config_name: str, arguments: argparse.Namespace) -> None:
    """Print the checked configuration on rank 0 (--cfg job), or Hydra's output (--cfg hydra, --info)."""
    exit_quietly_on_closed_pipe()
    hydra_overrides = Sources.parse(arguments.overrides, config_name, arguments.config_dir).hydra_overrides
    tree = compose(arguments.overrides, config_name, arguments.config_dir) if arguments.cfg else {}
    if not is_rank_0():
        return
    if arguments.cfg == "job":
        node = OmegaConf.create(tree)
        print(OmegaConf.to_yaml(OmegaConf.select(node, arguments.package) if arguments.package else node), end="")
    else:
        run_hydra(lambda _: None, config_name, arguments.overrides, hydra_overrides)


def run_hydra(task: Main, config_name: str, typed: list[str], hydra_overrides: list[str]) -> None:
    """Run `hydra.main` on the process's command line with `hydra_overrides` in place of the overrides as typed."""
    sys.argv[1:] = [*hydra_overrides, *(argument for argument in sys.argv[1:] if argument not in typed)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra does not print exceptions: `report_errors` does
    hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")(task)()


def parse_arguments() -> argparse.Namespace:
    """Parse Hydra's flags. Raises ValueError for flags that are unknown or not supported."""
    parser = get_args_parser()
    arguments, unknown = parser.parse_known_intermixed_args()
    if arguments.config_path or arguments.experimental_rerun:
        raise ValueError("--config-path and --experimental-rerun are not supported: use --config-dir DIR")
    if unknown:
        name, _, value = unknown[0].lstrip("-").partition("=")
        option, _ = foreign_names.OPTIONS.get(name, (name or "KEY", ""))
        raise ValueError(
            f"{unknown[0]} is not a flag: settings are written KEY=VALUE, such as {option}={value or 'VALUE'}, --help "
            "lists the flags"
        )
    return arguments


def is_rank_0() -> bool:
    """Whether this is rank 0, from the environment: torch need not be imported."""
    return os.environ.get("RANK", "0") == "0"


def exit_quietly_on_closed_pipe() -> None:
    """Let a closed pipe (`... | head`) end this process without an error message."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def prepare_process(config_dir: str | None) -> None:
    """Set the import path and PATH, so that a command runs from any folder and without an activated environment.

    The folder of the commands is removed from the import path, because its `evaluate.py` would hide a library of that
    name. With `config_dir` the working directory is added, because the configuration may name classes there.
    """
    check_clone()
    if not is_rank_0():
        logging.disable(logging.WARNING)  # all ranks read the same data: only rank 0 warns
    folder = ROOT / "launch"
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # for ninja
    if config_dir is not None:
        import_from_working_directory()


def import_from_working_directory() -> None:
    """Add the working directory to the import path, after this project's packages were imported: a folder `data` there
    must not hide them."""
    for package in PACKAGES:
        importlib.import_module(package)
    sys.path.append(os.getcwd())


def check_clone() -> None:
    """Raise ValueError if the command belongs to another clone than the installed one."""
    entry = Path(getattr(sys.modules["__main__"], "__file__", None) or __file__).resolve()
    twin = ROOT / "launch" / entry.name
    if entry.parent.name == "launch" and twin.exists() and twin != entry:
        raise ValueError(f"{entry} belongs to another clone than the installed {twin}: run `pip install -e .` there")
