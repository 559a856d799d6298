"""How a command fails: one line for a user's mistake, a traceback for a bug, on one rank, and never a hang."""

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from engines.distributed import heartbeat
from engines.distributed.preemption import REQUEUE, SIGNALS, Preempted
from runs.redaction import redact

FULL = (errno.ENOSPC, errno.EDQUOT)
USER_ERRORS = (ValueError, OSError, FloatingPointError)
GRACE_S = 5.0  # how long another rank waits for rank 0 to explain the error, before it does so itself
SHOW_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@dataclass
class Process:
    """What there is to know about this process when it ends."""

    run_folder: Path | None = None
    started: bool = False  # whether this process trains in the run folder
    interrupted: threading.Event = field(default_factory=threading.Event)  # by Ctrl-C
    ending: threading.Lock = field(default_factory=threading.Lock)  # it ends once: by its own error or another rank's


process = Process()


def set_run_folder(folder: Path | None) -> None:
    """Where `reported` looks for checkpoints and, after `run_started`, leaves `traceback.txt`."""
    process.run_folder, process.started = folder, False


def run_started() -> None:
    """The run folder belongs to this process. Until then it may be another run's, which a mistake must not touch."""
    process.started = True


@contextmanager
def reported() -> Iterator[None]:
    """Run the block of a whole process, for every command; an exception ends the process.

    ValueError, OSError and FloatingPointError (a user's mistake), Ctrl-C and exhausted memory are explained in one
    line `error: ...`, anything else keeps its traceback. Under torchrun one rank of a node prints it, rank 0 if it
    fails too, and torchrun's summary repeats it. Exit status 1, after Ctrl-C 130, after a preemption REQUEUE
    (docs/reference.md).
    """
    _mark_preempted(False)
    is_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, _interrupt) if is_main_thread else None
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _fail(error)
    finally:
        if previous is not None and signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, previous)


def explain(error: BaseException) -> str | None:
    """The one line for `error`, or None if it is a bug."""
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
            f"a disk is full ({' '.join(str(error).split())}): make room, first where "
            f"{process.run_folder or 'the run'} lies; {_how_to_resume()}"
        )
    if isinstance(error, USER_ERRORS):
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _is_full_disk(error: BaseException) -> bool:
    """Whether the disk or the user's share of it is full. safetensors reports the system's error in words."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return type(error).__name__ == "SafetensorError" and any(f"os error {number})" in str(error) for number in FULL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    process.interrupted.set()
    raise KeyboardInterrupt


def end_process(line: str, report: bool) -> None:
    """End this process, from any thread, because another rank has failed; `report`: print the line here."""
    if process.ending.acquire(blocking=False):
        line = f"{line}; {_how_to_resume()}"
        _report_to_torchrun(line, f"error: {line}", is_cause=False)
        if report and _is_reporter(0.0):
            _end_progress_bars()
            print(f"error: {line}", file=sys.stderr)
        _exit(1)


def _fail(error: BaseException) -> NoReturn:
    """Explain `error` on one rank, report it to torchrun, and end the process without waiting for the other ranks."""
    process.ending.acquire(timeout=2 * GRACE_S)  # held where another rank's failure is just ending this process
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # torchrun sends SIGTERM to all once the first rank has ended
    line, details, report = explain(error), redact("".join(traceback.format_exception(error))), True
    line = None if line is None else redact(line)
    bug = redact(f"{type(error).__name__}: {error}")
    if isinstance(error, Preempted):
        _mark_preempted(True)
        heartbeat.stop()
    is_watched = heartbeat.is_running()
    is_victim = is_watched and heartbeat.collective_failed(error) and not process.interrupted.is_set()
    if is_watched:
        cause, report = heartbeat.report_failure(error, line or bug)
        line = f"{cause}; {_how_to_resume()}" if is_victim else line
    _report_to_torchrun(line or bug, f"error: {line}" if line else details, is_cause=not is_victim)
    if report and _is_reporter(0.0 if is_watched else GRACE_S):
        _print(error, line, details)
    _exit(REQUEUE if isinstance(error, Preempted) else 130 if process.interrupted.is_set() else 1)


def _mark_preempted(is_so: bool) -> None:
    """Leave a mark for launch/cluster/node.sh: the exit status of torchrun is 1 whatever those of its ranks are."""
    if file := os.environ.get("PLACKETT_PREEMPTED_FILE"):
        with suppress(OSError):
            Path(file).touch() if is_so else Path(file).unlink(missing_ok=True)


def _print(error: BaseException, line: str | None, details: str) -> None:
    """The line, or the traceback of a bug, on stderr."""
    rank = int(os.environ.get("RANK", "0"))
    where = f" (on rank {rank})" if rank else ""
    kind = "" if isinstance(error, Preempted) else f"error{where}: "
    stopped = process.interrupted.is_set() or isinstance(error, Preempted)
    saved = None if stopped or line is None else _save(details)
    hint = f" (traceback: {saved})" if saved else ""
    _end_progress_bars()
    if rank:
        print(file=sys.stderr)  # rank 0's bar stands in this line
    if SHOW_TRACEBACK or line is None:
        print(details, end="", file=sys.stderr)
    if line is not None:
        print(f"{kind}{line}{hint}", file=sys.stderr)


def _is_reporter(grace_s: float) -> bool:
    """Whether this rank is the one of its node that explains the error: rank 0, or who else fails while it does not."""
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
    """The file that torchrun's summary shows, as torch.distributed.elastic's ErrorHandler writes it.

    Of several torchrun calls the earliest the root cause, to the second: who fails because of another is dated later.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file is None:
        return
    extra = {"py_callstack": details, "timestamp": str(int(time.time()) + (not is_cause))}
    with suppress(OSError):
        Path(error_file).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


def _save(details: str) -> Path | None:
    """Leave the traceback in the run directory, if this process has started one that is not finished."""
    folder = process.run_folder
    if not process.started or folder is None or not folder.is_dir() or (folder / "summary.json").exists():
        return None
    file = folder / "traceback.txt"
    with suppress(OSError):
        file.write_text(details)
        return file
    return None


def _how_to_resume() -> str:
    places = ("checkpoints/step-*", "stages/*/checkpoints/step-*", "trl/checkpoint-*")
    folder = process.run_folder
    found = [step for place in places for step in folder.glob(place)] if folder else []
    steps = [step for step in found if not step.suffix]  # without those set aside as .broken
    steps.sort(key=lambda step: (step.parent, len(step.name), step.name))
    if steps:
        return f"the same command with resume=auto (the default) continues from {steps[-1]}"
    return "no checkpoint was written yet, the same command starts again"


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).split(". ")[0]


def _end_progress_bars() -> None:
    """Close tqdm's bars, so that the line below starts at the margin."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(getattr(tqdm, "tqdm", None), "_instances", ())):
        bar.close()


def exit_if_tracker_hangs() -> None:
    """End the process now if W&B's thread hangs: its clean-up at the interpreter's end would wait for it."""
    if _tracker_hangs():
        _exit(0)


def _tracker_hangs() -> bool:
    return any(thread.name == "wandb" for thread in threading.enumerate())


def _exit(status: int) -> NoReturn:
    """End the process with everything printed; at once beside other ranks, where a clean-up would wait for them."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or _tracker_hangs():
        logging.shutdown()
        for child in multiprocessing.active_children():
            child.kill()  # data workers ignore SIGTERM
        os._exit(status)
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, signal.SIG_DFL)
    raise SystemExit(status)
