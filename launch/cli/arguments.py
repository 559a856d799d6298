"""The parser of commands whose options are flags, and the start and end of their process."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from launch.cli.entry import exit_quietly_on_closed_pipe, prepare_process
from launch.cli.errors import report_errors
from launch.cli.help import experiments_part
from launch.cli.overrides import config_folders


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports errors in one line, like all commands. `about` is the first part of --help: what
    the command does, and examples. With `lists_experiments`, the experiments of conf/ and of --config-dir follow."""

    def __init__(self, entry: str, about: str | None, *, lists_experiments: bool = False):
        name, style = f"launch/{Path(entry).name}", argparse.RawDescriptionHelpFormatter
        super().__init__(prog=name, description=(about or "").strip(), formatter_class=style, add_help=False)
        if lists_experiments:
            self.add_argument("-h", "--help", action=_HelpWithExperiments, nargs=0, help="print this page")
        else:
            self.add_argument("-h", "--help", action="help", help="print this page")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help shows the usage)")


class _HelpWithExperiments(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        parser.epilog = experiments_part(config_folders(getattr(namespace, "config_dir", None)))
        parser.print_help()
        parser.exit()


def run_command(main: Callable[[], None], option_names: Mapping[str, str] | None = None) -> None:
    """Call `main` as the main function of a process. An error of the user is reported in one line, with exit status 1,
    in which `option_names` replaces the names of settings by those of the command's flags."""
    exit_quietly_on_closed_pipe()
    with report_errors(option_names):
        prepare_process(config_dir=None)
        main()
