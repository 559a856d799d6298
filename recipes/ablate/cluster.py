"""The jobs of an ablation on a cluster, by submitit: Slurm, or submitit's own processes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.distributed.preemption import REQUEUE
from recipes.ablate.processes import LocalProcess, command_of, environment_of, error_line

TIMEOUT_MIN = 24 * 60  # of a job, unless submitit.timeout_min says otherwise: submitit's own are 5 minutes and fewer
POLL_S = 0.5


@dataclass
class ClusterTask:
    """What submitit calls on every node of a job: it runs the command and returns its exit status.

    A file `stop` asks it to end with a checkpoint; before a time limit or a preemption submitit calls `checkpoint`,
    which does the same and has the job queued again.
    """

    overrides: Sequence[str]
    ranks: int
    config_dir: str | None
    log: Path
    stop_file: Path
    _process: LocalProcess | None = field(default=None, init=False)

    def __call__(self) -> int:
        import submitit

        if self.stop_file.exists():
            return REQUEUE
        node = submitit.JobEnvironment()
        command = command_of(self.overrides, ranks=self.ranks, config_dir=self.config_dir, rendezvous=rendezvous(node))
        log = self.log if node.node == 0 else self.log.with_name(f"{self.log.stem}-node{node.node}.log")
        self._process = LocalProcess(command, log, environment_of(0, jobs=1, ranks=self.ranks, gpus=()))
        is_asked = False
        while (status := self._process.poll()) is None:
            if not is_asked and self.stop_file.exists():
                is_asked = True
                self._process.stop()
            time.sleep(POLL_S)
        return REQUEUE if is_asked and status else status

    def checkpoint(self) -> Any:
        """End with a checkpoint, and give submitit what the queued job is to call."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.stop()
            while self._process.poll() is None:
                time.sleep(POLL_S)
        again = ClusterTask(self.overrides, self.ranks, self.config_dir, self.log, self.stop_file)
        return DelayedSubmission(again)


def rendezvous(node: Any) -> list[str]:
    """torchrun's options for a job on several nodes, which meet on the first one; none for one node. `node`: submitit's
    JobEnvironment."""
    if node.num_nodes == 1:
        return []
    port = 20000 + int("".join(sign for sign in node.job_id if sign.isdigit())) % 10000
    return [
        f"--nnodes={node.num_nodes}",
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint={node.hostnames[0]}:{port}",
        f"--rdzv_id={node.job_id}",
    ]


class Cluster:
    """Submits jobs, at most as many as the scheduler has slots."""

    def __init__(
        self,
        kind: str,
        folder: Path,
        parameters: Mapping[str, Any],
        *,
        name: str,
        nodes: int,
        task: Callable[[Any, Path], ClusterTask],
    ) -> None:
        submitit = import_submitit()
        self.folder, self.nodes, self._task, self._submitit = folder, nodes, task, submitit
        try:
            self._executor = submitit.AutoExecutor(folder=folder / "submitit", cluster=kind)
            self._executor.update_parameters(
                **{"timeout_min": TIMEOUT_MIN, "nodes": nodes, "tasks_per_node": 1, "name": name, **parameters}
            )
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise ValueError(f"cluster={kind}: {' '.join(str(error).split())}") from None
        self.can_rejoin = kind == "slurm"

    def start(self, job: Any, slot: int) -> SubmittedJob:
        """Submit the job; one that a killed command has submitted, and that is still there, is taken over instead."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        id_file, stop_file = logs / f".{job.name}.submitted", logs / f".{job.name}.stop"
        task = self._task(job, stop_file)
        offset = task.log.stat().st_size if task.log.exists() else 0
        if self.can_rejoin and id_file.exists():
            earlier = self._submitit.SlurmJob(
                folder=self.folder / "submitit", job_id=id_file.read_text().strip(), tasks=list(range(self.nodes))
            )
            if not earlier.done(force_check=True):
                return SubmittedJob(earlier, task, offset)
        stop_file.unlink(missing_ok=True)
        submitted = self._executor.submit(task)
        id_file.write_text(submitted.job_id)
        return SubmittedJob(submitted, task, offset)


class SubmittedJob:
    """A job of submitit as a process of the scheduler."""

    def __init__(self, job: Any, task: ClusterTask, offset: int) -> None:
        self._job, self._task, self._offset, self._failure = job, task, offset, ""

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        try:
            return max(self._job.results())
        except Exception as error:  # submitit raises RuntimeError and others if the cluster has ended the job
            lines = [line for line in str(error).splitlines() if line.strip(" -")]
            self._failure = " ".join(f"{lines[0] if lines else type(error).__name__}".split())
            return REQUEUE if self._task.stop_file.exists() else 1

    def stop(self) -> None:
        self._task.stop_file.touch()
        if str(self._job.state).upper() in ("PENDING", "REQUEUED"):
            self._job.cancel(check=False)

    def kill(self) -> None:
        self._task.stop_file.touch()
        self._job.cancel(check=False)

    def error(self) -> str:
        return self._failure or error_line(self._task.log, self._offset)


def import_submitit() -> Any:
    """Import submitit. Raises ValueError if it is not installed."""
    try:
        import submitit
    except ImportError:
        raise ValueError("cluster=... needs submitit: pip install -c constraints.txt -e '.[ablate]'") from None
    return submitit
