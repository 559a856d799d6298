"""Commands whose options are flags: their parser, and how their process starts and ends."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from typing import NoReturn

from launch.cli.entry import prepare_process
from launch.cli.errors import reported


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help shows the usage)")


def run_command(main: Callable[[], None]) -> None:
    """Call `main` as a process of its own; an error is one line, and a closed pipe (`... | head`) ends it quietly."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with reported():
        prepare_process(config_dir=None)
        main()
