"""How an entry file starts: the process, the command line, the configuration, and the errors."""

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

from launch.cli.compose import compose, instantiate
from launch.cli.errors import exit_if_tracker_hangs, reported, set_run_folder
from launch.cli.help import help_page
from launch.cli.overrides import Sources, config_folders
from runs.redaction import redact_tree
from runs.source_tree import CONF, PACKAGES, ROOT

Main = Callable[[Any], object]  # called with the settings, the object that the configuration's root names


def run(main: Main, config_name: str = "train", about: str | None = None) -> None:
    """Compose `config_name` from the command line and call `main` with the settings. `about` opens --help.

    Hydra itself runs only for --multirun, --cfg and --info: otherwise it makes no directory, no log file and changes no
    working directory. Under --multirun every job is named run_name-OVERRIDES, and what `main` returns is the value that
    a sweeper (Optuna) optimises.
    """
    with reported():
        arguments = parse_arguments()
        config_name = arguments.config_name or config_name
        if arguments.help:
            show_help(about or "", config_name, arguments.config_dir)
            return
        prepare_process(arguments.config_dir)
        if arguments.multirun:
            sweep(main, config_name, arguments)
        elif arguments.cfg or arguments.hydra_help or arguments.info or arguments.shell_completion:
            show(config_name, arguments)
        else:
            start(main, compose(arguments.overrides, config_name, arguments.config_dir))
    exit_if_tracker_hangs()


def show_help(about: str, config_name: str, config_dir: str | None) -> None:
    """Print the command's --help, on rank 0."""
    end_quietly_with_pipe()
    if is_rank_0():
        print(help_page(about, config_name, config_folders(config_dir)))


def start(main: Main, tree: Mapping[str, Any]) -> object:
    if "run_name" in tree and "output_dir" in tree:
        set_run_folder(Path(tree["output_dir"]) / tree["run_name"])
    return main(instantiate(tree))


def sweep(main: Main, config_name: str, arguments: argparse.Namespace) -> None:
    """Hydra's --multirun: each job is composed and checked by itself, and named after what sets it apart."""

    def job(_: object) -> object:
        with reported():  # here, and not around Hydra alone, which would print a line of its own first
            hide_secrets(Path(HydraConfig.get().sweep.dir))
            overrides = list(HydraConfig.get().overrides.task)
            tree = compose(overrides, config_name, arguments.config_dir)
            own = sorted(override.lstrip("+") for override in overrides if override not in forced)
            tree["run_name"] = "-".join([tree["run_name"], *own]).replace("/", "_")
            return start(main, tree)

    forced = Sources.find(arguments.overrides, config_name, arguments.config_dir).forced
    try:
        run_hydra(job, config_name, arguments.overrides, forced)
    finally:  # no job may have come so far
        given = [override.partition("=")[2] for override in arguments.overrides if override.startswith("output_dir=")]
        hide_secrets(Path(given[-1] if given else "outputs"))


def hide_secrets(sweep_folder: Path) -> None:
    """Redact the file to which Hydra's sweeper writes its command line as it was given."""
    file = sweep_folder / "multirun.yaml"
    if is_rank_0() and file.is_file():
        OmegaConf.save(OmegaConf.create(redact_tree(OmegaConf.to_container(OmegaConf.load(file)))), file)


def show(config_name: str, arguments: argparse.Namespace) -> None:
    """Print on rank 0 the checked configuration, as config.yaml will hold it (--cfg job), or what Hydra says (--cfg
    hydra, --info)."""
    end_quietly_with_pipe()
    forced = Sources.find(arguments.overrides, config_name, arguments.config_dir).forced
    tree = compose(arguments.overrides, config_name, arguments.config_dir) if arguments.cfg else {}
    if not is_rank_0():
        return
    if arguments.cfg == "job":
        node = OmegaConf.create(tree)
        print(OmegaConf.to_yaml(OmegaConf.select(node, arguments.package) if arguments.package else node), end="")
    else:
        run_hydra(lambda _: None, config_name, arguments.overrides, forced)


def run_hydra(task: Main, config_name: str, given: list[str], forced: list[str]) -> None:
    """`hydra.main` on the process's own command line, its overrides replaced by those that `Sources` makes of them."""
    sys.argv[1:] = [*forced, *(argument for argument in sys.argv[1:] if argument not in given)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach `reported` instead of being printed by Hydra
    hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")(task)()


def parse_arguments() -> argparse.Namespace:
    parser = get_args_parser()
    arguments, unknown = parser.parse_known_intermixed_args()
    if arguments.config_path or arguments.experimental_rerun:
        raise ValueError("--config-path and --experimental-rerun are not supported: use --config-dir DIR")
    if unknown:
        raise ValueError(f"{unknown[0]} is not a flag: settings are written KEY=VALUE, --help lists the flags")
    return arguments


def is_rank_0() -> bool:
    """Whether this process prints; known without torch."""
    return os.environ.get("RANK", "0") == "0"


def end_quietly_with_pipe() -> None:
    """A closed pipe (`... | head`) ends this process without an error."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def prepare_process(config_dir: str | None) -> None:
    """Make imports and programs be found wherever the command was started, with an activated environment or without.

    The entry file's own folder is taken off the import path (its `evaluate.py` would hide a library of that name).
    `config_dir` may name classes of the user's own, which lie in the working directory.
    """
    check_clone()
    if not is_rank_0():
        logging.disable(logging.WARNING)  # every rank reads the same data: rank 0 alone warns
    folder = ROOT / "launch"
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # ninja's
    if config_dir is not None:
        import_from_working_directory()


def import_from_working_directory() -> None:
    """Put the working directory on the import path, after this project's packages are imported: a folder named `data`
    there must not hide them."""
    for package in PACKAGES:
        importlib.import_module(package)
    sys.path.append(os.getcwd())


def check_clone() -> None:
    """Raise ValueError if the entry file lies in another clone than the installed one."""
    entry = Path(getattr(sys.modules["__main__"], "__file__", None) or __file__).resolve()
    twin = ROOT / "launch" / entry.name
    if entry.parent.name == "launch" and twin.exists() and twin != entry:
        raise ValueError(f"{entry} belongs to another clone than the installed {twin}: run `pip install -e .` there")
