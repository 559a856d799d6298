"""Refuse a command that a cluster's launcher has started several times without torchrun: each would be a run of its
own, and all would write to one run directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """A program that starts several processes of a command, and the variables in which it tells each of them about
    the others. The first size that is set counts."""

    name: str
    rank: tuple[str, ...]
    size: tuple[str, ...]

    def processes(self, variables: Mapping[str, str]) -> int:
        """The number of processes that it has started; 0 if it has not started this one."""
        if not any(name in variables for name in self.rank):
            return 0
        sizes = (variables[name] for name in self.size if name in variables)
        return next((int(size) for size in sizes if size.isdigit()), 0)


# srun sets the size of its step; SLURM_NTASKS alone is that of the job.
LAUNCHERS = (
    Launcher("Open MPI", ("OMPI_COMM_WORLD_RANK",), ("OMPI_COMM_WORLD_SIZE",)),
    Launcher("MVAPICH", ("MV2_COMM_WORLD_RANK",), ("MV2_COMM_WORLD_SIZE",)),
    Launcher("Slurm", ("SLURM_PROCID",), ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")),
    Launcher("Flux", ("FLUX_TASK_RANK",), ("FLUX_JOB_SIZE",)),
    Launcher("jsrun", ("JSM_NAMESPACE_RANK",), ("JSM_NAMESPACE_SIZE",)),
    Launcher("MPI", ("PMI_RANK", "PMIX_RANK", "PALS_RANKID"), ("PMI_SIZE", "MPI_LOCALNRANKS")),
)


def check_launcher(command: str, variables: Mapping[str, str] = os.environ) -> None:
    """Raise ValueError, which says how to start `command`, if a launcher has started it several times without
    torchrun."""
    if "RANK" in variables:  # set by torchrun, and by accelerate and deepspeed alike
        return
    for launcher in LAUNCHERS:
        if (count := launcher.processes(variables)) > 1:
            raise ValueError(
                f"{launcher.name} has started {count} processes of this command, and each would be a run of its own: "
                f"start one torchrun on each node, which starts the ranks: {_how_to_start(launcher.name, command)}"
            )


def _how_to_start(launcher: str, command: str) -> str:
    ranks = f"torchrun --nproc_per_node=GPUS {command} ..."
    if launcher != "Slurm":
        return f"`{ranks}` on one node, docs/scaling.md for several; a single process without {launcher}"
    return (
        f"`srun --ntasks=1 {ranks}` on one node, `sbatch launch/cluster/slurm.sh ...` on several (docs/scaling.md); a "
        f"single process with `srun --ntasks=1 python {command} ...`"
    )
