"""Errors of a command: one line for a user's mistake, a traceback for a bug, on one rank, and never a hang."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from data.progress import LogHandler, terminal
from engines.distributed import heartbeat
from engines.distributed.preemption import INTERRUPTED, SIGNALS, Preempted
from runs.redaction import redact

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's quota
USER_ERRORS = (ValueError, OSError, FloatingPointError)
GRACE_S = 5.0  # other ranks wait so long for rank 0 to print the error, before they print it
SHOW_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@dataclass
class Process:
    """The facts about this process that are needed when it ends."""

    run_folder: Path | None = None
    started: bool = False  # whether this process trains in the run folder
    option_names: Mapping[str, str] = field(default_factory=dict)  # of settings in messages -> of this command
    interrupted: threading.Event = field(default_factory=threading.Event)  # set by Ctrl-C
    exit_lock: threading.Lock = field(
        default_factory=threading.Lock
    )  # only one error, its own or another rank's, ends it


process = Process()


def set_run_folder(folder: Path | None) -> None:
    """Set the folder in which `report_errors` looks for checkpoints and, after `run_started`, writes
    `traceback.txt`."""
    process.run_folder, process.started = folder, False


def run_started() -> None:
    """Note that this process has the lock of the run folder. Until then the folder may belong to another run, and
    nothing is written there."""
    process.started = True


@contextmanager
def report_errors(option_names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run the main block of a command. An exception ends the process. `option_names`: the words of messages about
    settings for which this command has others.

    ValueError, OSError and FloatingPointError (a user's mistake), Ctrl-C and exhausted memory are printed in one
    line `error: ...`; any other exception keeps its traceback. Under torchrun one rank of a node prints it, rank 0 if
    it fails too, and torchrun's summary repeats it. The exit status is 1, after Ctrl-C 130, after a preemption 75
    (docs/reference.md).
    """
    _mark_preempted(False)
    process.option_names = option_names or {}
    is_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, _interrupt) if is_main_thread else None
    log_handler, logging.lastResort = logging.lastResort, LogHandler(logging.WARNING)
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _fail(error)
    finally:
        logging.lastResort = log_handler
        if previous is not None and signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, previous)


def explain(error: BaseException) -> str | None:
    """The line that explains `error`, with this command's names of options; None if it is a bug."""
    line = _explanation(error)
    for name, own in process.option_names.items():
        line = line and line.replace(name, own)
    return line


def _explanation(error: BaseException) -> str | None:
    if process.interrupted.is_set() or isinstance(error, KeyboardInterrupt):
        return f"interrupted: {_how_to_resume()}"
    if isinstance(error, Preempted):
        return f"{error}: {_how_to_resume()}"
    if isinstance(error, MemoryError) and str(error):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return (
            "out of memory: lower trainer.kept_chunks, then trainer.token_budget (tokens per chunk), then "
            "model.max_length; "
            f"{_first_sentence(error)}"
        )
    if _is_full_disk(error):
        return (
            f"a disk is full ({' '.join(str(error).split())}): free space, first on the disk of "
            f"{process.run_folder or 'the run'}; {_how_to_resume()}"
        )
    if isinstance(error, USER_ERRORS):
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _is_full_disk(error: BaseException) -> bool:
    """Whether the disk or the user's quota is full. safetensors gives the system's error only as text."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return type(error).__name__ == "SafetensorError" and any(
        f"os error {number})" in str(error) for number in DISK_FULL
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    process.interrupted.set()
    raise KeyboardInterrupt


def end_process(line: str, report: bool) -> None:
    """End this process, from any thread, because another rank has failed. `report`: whether to print the line."""
    if process.exit_lock.acquire(blocking=False):
        line = f"{line}; {_how_to_resume()}"
        _report_to_torchrun(line, f"error: {line}", is_cause=False)
        if report and _is_reporter(0.0):
            _end_progress_bars()
            print(f"error: {line}", file=sys.stderr)
        _exit(1)


def _fail(error: BaseException) -> NoReturn:
    """Print `error` on one rank, report it to torchrun, and end the process without waiting for the other ranks."""
    process.exit_lock.acquire(timeout=2 * GRACE_S)  # held if another rank's failure is ending this process
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # torchrun sends SIGTERM to all ranks once the first has ended
    line, details, report = explain(error), redact("".join(traceback.format_exception(error))), True
    line = None if line is None else redact(line)
    bug = redact(f"{type(error).__name__}: {error}")
    if isinstance(error, Preempted):
        _mark_preempted(not error.by_user)
        heartbeat.stop()
    is_watched = heartbeat.is_running()
    is_victim = is_watched and heartbeat.collective_failed(error) and not process.interrupted.is_set()
    if is_watched:
        cause, report = heartbeat.report_failure(error, line or bug)
        line = f"{cause}; {_how_to_resume()}" if is_victim else line
    _report_to_torchrun(line or bug, f"error: {line}" if line else details, is_cause=not is_victim)
    if report and _is_reporter(0.0 if is_watched else GRACE_S):
        _print(error, line, details)
        is_explained = False
    else:  # another rank of this node has the same mistake and fails: torchrun's report need not repeat it
        is_explained = line is not None and not is_watched
    if isinstance(error, Preempted):
        _exit(error.exit_status)
    _exit(INTERRUPTED if process.interrupted.is_set() else 0 if is_explained else 1)


def _mark_preempted(preempted: bool) -> None:
    """Write or remove a marker file for launch/cluster/node.sh, because torchrun's exit status is always 1 on
    failure."""
    if file := os.environ.get("PLACKETT_PREEMPTED_FILE"):
        with suppress(OSError):
            Path(file).touch() if preempted else Path(file).unlink(missing_ok=True)


def _print(error: BaseException, line: str | None, details: str) -> None:
    """Print the line, or the traceback of a bug, to stderr."""
    rank = int(os.environ.get("RANK", "0"))
    place = f" (on rank {rank})" if rank else ""
    kind = "" if isinstance(error, Preempted) else f"error{place}: "
    stopped = process.interrupted.is_set() or isinstance(error, Preempted)
    saved = None if stopped or line is None else _save(details)
    hint = f" (traceback: {saved})" if saved else ""
    _end_progress_bars()
    if rank:
        print(file=sys.stderr)  # rank 0's progress bar is on this line
    if SHOW_TRACEBACK or line is None:
        print(details, end="", file=sys.stderr)
    if line is not None:
        print(f"{kind}{line}{hint}", file=sys.stderr)


def _is_reporter(grace_s: float) -> bool:
    """Whether this rank prints the error for its node: local rank 0, or the first other rank if that one does not
    fail."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file is None:
        return True
    marker = Path(error_file).parent.parent / "explained"  # the folder of this attempt, shared by the node's ranks
    if os.environ.get("LOCAL_RANK", "0") != "0":
        deadline = time.monotonic() + grace_s
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _report_to_torchrun(message: str, details: str, *, is_cause: bool = True) -> None:
    """Write the file that torchrun's summary shows, in the format of torch.distributed.elastic's ErrorHandler.

    torchrun names the earliest error, by the second, as the root cause. So a rank that fails because of another one
    writes a time that is one second later.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file is None:
        return
    extra = {"py_callstack": details, "timestamp": str(int(time.time()) + (not is_cause))}
    with suppress(OSError):
        Path(error_file).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


def _save(details: str) -> Path | None:
    """Write the traceback to the run directory, if this process has started a run that is not finished."""
    folder = process.run_folder
    if not process.started or folder is None or not folder.is_dir() or (folder / "summary.json").exists():
        return None
    file = folder / "traceback.txt"
    with suppress(OSError):
        file.write_text(details)
        return file
    return None


def _how_to_resume() -> str:
    """How to continue the run, with the newest checkpoint if there is one."""
    patterns = ("checkpoints/step-*", "stages/*/checkpoints/step-*", "trl/checkpoint-*")
    folder = process.run_folder
    if folder is None:
        return "the same command starts again"
    if not process.started and (folder / "summary.json").is_file():
        return f"the finished run {folder} is as it was, the same command starts again"
    found = [step for pattern in patterns for step in folder.glob(pattern)]
    steps = [step for step in found if not step.suffix]  # without those renamed to .broken
    steps.sort(key=lambda step: (step.parent, len(step.name), step.name))
    if steps:
        return f"the same command with resume=auto (the default) continues from {steps[-1]}"
    return "no checkpoint was written yet, the same command starts again"


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).split(". ")[0]


def _end_progress_bars() -> None:
    """Remove the bar and close those of libraries (tqdm), so that the message starts on a new line."""
    terminal.clear()
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(getattr(tqdm, "tqdm", None), "_instances", ())):
        bar.close()


def exit_if_wandb_hangs() -> None:
    """End the process now if W&B's thread hangs: W&B's clean-up at interpreter exit would wait for it."""
    if _wandb_hangs():
        _exit(0)


def _wandb_hangs() -> bool:
    return any(thread.name == "wandb" for thread in threading.enumerate())


def _exit(status: int) -> NoReturn:
    """End the process after flushing its output. With several ranks it ends at once, because a clean-up would wait for
    the others."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or _wandb_hangs():
        logging.shutdown()
        for child in multiprocessing.active_children():
            child.kill()  # data workers ignore SIGTERM
        os._exit(status)
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, signal.SIG_DFL)
    raise SystemExit(status)
