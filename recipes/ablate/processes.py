"""The processes of an ablation's runs on this machine."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from engines.distributed.preemption import REQUEUE
from runs.source_tree import ROOT

PR_SET_PDEATHSIG = 1  # of Linux's prctl
# How long torchrun waits for the checkpoint of its ranks after SIGTERM (its default: 30 s), as launch/cluster/node.sh.
SHUTDOWN_TIMEOUT_S = "240"
_ROOT_CAUSE = re.compile(rb"Root Cause \(first observed failure\):.{0,1000}?exitcode\s*:\s*(-?\d+)", re.DOTALL)
# Variables that all runs would share: W&B would make one run of them, or log by the service of the parent's run.
OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_NAME", "WANDB_SERVICE")
_ERROR_LINE = re.compile(r"error(?: \(on rank \d+\))?: ")
_TRACEBACK = re.compile(r" \(traceback: [^)]*\)$")  # the file is in the run's folder
_EXCEPTION_LINE = re.compile(r"[A-Za-z_.]*(?:Error|Exception|Interrupt)\b")


def command_of(
    overrides: Sequence[str], *, ranks: int, config_dir: str | None, rendezvous: Sequence[str] = ()
) -> list[str]:
    """The command of a run: launch/train.py, by torchrun if it has several ranks, or nodes, with `rendezvous` as its
    options then."""
    several = ranks > 1 or rendezvous
    options = [*(rendezvous or ["--standalone"]), f"--nproc_per_node={ranks}"]
    torchrun = ["-m", "torch.distributed.run", *options] if several else []
    folder = [] if config_dir is None else ["--config-dir", config_dir]
    return [sys.executable, *torchrun, str(ROOT / "launch" / "train.py"), *folder, *overrides]


def environment_of(slot: int, *, jobs: int, ranks: int, gpus: Sequence[str]) -> dict[str, str]:
    """The variables of the run in a slot, one of `jobs` at a time: its share of the cores, and its own GPUs if there
    are enough for all; else runs of one rank share them in turn. A number of threads that the user has set stays."""
    variables: dict[str, str] = {}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(num_cores() // (jobs * ranks), 1))
    if jobs > 1 and gpus:
        if len(gpus) >= jobs * ranks:
            own = gpus[slot * ranks : (slot + 1) * ranks]
        else:
            own = [gpus[slot % len(gpus)]] if ranks == 1 else gpus
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    if ranks > 1:
        variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = os.environ.get(
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_TIMEOUT_S
        )
    return variables


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalProcess:
    """A running command, whose output is appended to the file `log`.

    It is in a session of its own, so that Ctrl-C in a terminal reaches it through `stop` alone, once. If this process
    is killed, the kernel sends it SIGTERM (on Linux), so that it writes its checkpoint and ends.
    """

    def __init__(self, command: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._marker = log.with_name(f".{log.stem}.preempted")  # torchrun's own exit status says nothing of it
        self._marker.unlink(missing_ok=True)
        self._offset = log.stat().st_size if log.exists() else 0
        inherited = {name: value for name, value in os.environ.items() if name not in OF_ONE_RUN}
        environment = {**inherited, **variables, "PLACKETT_PREEMPTED_FILE": str(self._marker.absolute())}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_end_with_parent(),
            )

    def poll(self) -> int | None:
        """The exit status once it has ended, negative also if a signal has killed one of torchrun's ranks, REQUEUE if
        they were preempted; None while it runs."""
        status = self._process.poll()
        if status is not None and self._marker.exists():
            self._marker.unlink()
            return REQUEUE
        return killing_signal(self.log, self._offset) or status if status else status

    def stop(self) -> None:
        """Ask it to write a checkpoint and end. Call it once: at a second signal torchrun leaves its ranks alone."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and its own processes at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def error(self) -> str:
        """The line of its output that says why it has failed."""
        return error_line(self.log, self._offset)


def killing_signal(log: Path, offset: int = 0) -> int:
    """The negative number of the signal that has killed a rank, by torchrun's report in a log from the byte `offset`
    on; 0 if it reports none. Only the first failure counts: torchrun itself ends the other ranks then."""
    with log.open("rb") as file:
        file.seek(offset)
        found = _ROOT_CAUSE.findall(file.read())
    return min(int(found[-1]), 0) if found else 0


def error_line(log: Path, offset: int = 0) -> str:
    """The line of a log, from the byte `offset` on, that says why a run has failed: that of the command's error, else
    that of an exception, else the last one."""
    with log.open("rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    for pattern in (_ERROR_LINE, _EXCEPTION_LINE):
        if found := [line for line in lines if pattern.match(line)]:
            return _TRACEBACK.sub("", _ERROR_LINE.sub("", found[-1], count=1))
    return lines[-1] if lines else "it wrote nothing"


def _end_with_parent() -> Callable[[], None] | None:
    """A function for the child: the kernel sends it SIGTERM when its parent ends. None if the system has no prctl."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded before the fork
    parent = os.getpid()

    def set_signal() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm sends submitit's to every process of a job
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was killed in the meantime
            os._exit(REQUEUE)

    return set_signal
