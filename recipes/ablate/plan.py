"""The plan of an ablation, printed before it starts: configurations, jobs, what is done, memory, disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engines.memory.state_bytes import FLOAT_BYTES
from recipes.ablate.configurations import Configuration
from recipes.ablate.record import Record
from recipes.cost_plan.estimate import Machine, Plan, make_plans
from recipes.cost_plan.model_rows import AnyLength
from recipes.cost_plan.report import format_bytes

if TYPE_CHECKING:
    from recipes.ablate.run import Ablation

SHOWN = 20  # configurations that are listed
# Options that no memory depends on.
_NO_MEMORY = ("max_steps", "learning_rate", "weight_decay", "betas", "schedule", "warmup_ratio", "max_grad_norm")


def print_plan(ablation: Ablation, record: Record) -> None:
    """Print the plan."""
    print("\n".join(plan_lines(ablation, record)), flush=True)


def plan_lines(ablation: Ablation, record: Record) -> list[str]:
    """The lines of the plan: what is run, where, what is finished, the memory of a run, and what runs leave on disk."""
    options = ablation.options
    seeds = f"seed{'s' * (len(options.all_seeds) > 1)} " + ", ".join(map(str, options.all_seeds))
    if ablation.space:
        ranges = ", ".join(f"{key}={text}" for key, text in options.search.items())
        lines = [f"{record.folder}: a search of {options.num_trials} trials, {seeds}, by the metric of dev"]
        lines.append(f"  {ranges}")
        finished = sum(entry["status"] == "finished" for entry in (*record.jobs.values(), *record.earlier_jobs))
    else:
        number = len(record.configurations)
        lines = [f"{record.folder}: {number} configuration{'s' * (number != 1)}, {seeds}"]
        lines += [_row(record, each) for each in record.configurations[:SHOWN]]
        hidden = len(record.configurations) - SHOWN
        lines += [f"  and {hidden} more"] if hidden > 0 else []
        lines += [f"  from earlier commands, kept: {each.name}" for each in record.earlier]
        finished = record.count("finished")
    at_a_time = f", {options.jobs} at a time" if options.jobs > 1 else ""
    ranks = f", each on {options.ranks} ranks" if options.ranks > 1 else ""
    several = "s" * (ablation.num_jobs != 1)
    lines.append(f"{ablation.num_jobs} job{several}{at_a_time}{ranks}; {finished} finished already")
    return [*lines, *cost_lines(ablation, record.folder, max(ablation.num_jobs - finished, 0))]


def _row(record: Record, configuration: Configuration) -> str:
    entries = [(job, entry) for job, entry in record.jobs.items() if job.configuration == configuration]
    counts = {status: sum(entry["status"] == status for _, entry in entries) for status in ("finished", "failed")}
    done = [f"{number} {status}" for status, number in counts.items() if number]
    return f"  {configuration.name}" + (f" ({', '.join(done)})" if done else "")


def cost_lines(ablation: Ablation, folder: Path, jobs: int) -> list[str]:
    """The memory of a run, and what the `jobs` that are left take on disk, in `folder`."""
    machine = Machine.detect(None, None, None)
    try:
        plans = _plans(ablation, machine)
    except AnyLength as error:
        return [f"memory: not predicted: {error}"]
    return [memory_line(ablation, machine, plans), disk_line(folder, jobs, ablation.options.jobs, plans.values())]


def memory_line(ablation: Ablation, machine: Machine, plans: Mapping[str, Collection[Plan]]) -> str:
    """The memory of a run, that of the largest configuration, and whether those that run at a time fit the machine."""
    options = ablation.options
    peaks = {name: max(plan.estimates[0].peak for plan in stages) for name, stages in plans.items()}
    name, peak = max(peaks.items(), key=lambda item: item[1])
    largest = f" ({name}, the largest)" if len(peaks) > 1 else ""
    kind = "a GPU" if machine.device == "cuda" else "this machine"
    line = f"memory: about {format_bytes(peak)} per rank{largest}; {kind} has {format_bytes(machine.memory_bytes)}"
    gpus = torch.cuda.device_count() if machine.device == "cuda" else 1
    ranks = math.ceil(options.jobs * options.ranks / max(gpus, 1))
    if options.cluster != "slurm" and ranks * peak > machine.memory_bytes:
        line += f": too little for {ranks} ranks at a time: lower jobs, or trainer.token_budget"
    return line


def disk_line(folder: Path, jobs: int, at_a_time: int, plans: Collection[Collection[Plan]]) -> str:
    """What the checkpoints and models of the `jobs` that are left take on disk, and whether so much is free."""
    run = max(sum(map(_bytes_on_disk, stages)) for stages in plans)
    written = min(jobs, at_a_time) * max(plan.estimates[0].checkpoint for stages in plans for plan in stages)
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    line = f"disk: about {format_bytes(run)} a run, {format_bytes(jobs * run)} for {jobs} run{'s' * (jobs != 1)}"
    line += f"; {format_bytes(free)} are free"
    too_little = ": too little: free some, or lower trainer.keep_checkpoints"
    return line + too_little * (jobs * run + written > free)  # a new checkpoint is there before an old one is removed


def _bytes_on_disk(plan: Plan) -> float:
    """The checkpoints of a run or a stage, the latest and the best, and its exported model."""
    checkpoints = plan.estimates[0].checkpoint * (plan.workload.settings.trainer.keep_checkpoints + 1)
    return checkpoints + FLOAT_BYTES * plan.workload.parameters.total


def _plans(ablation: Ablation, machine: Machine) -> dict[str, Collection[Plan]]:
    """The predictions of launch/plan.py, for each stage, of the configurations that may differ in memory: without the
    data, for rows of the model's maximum length. Raises AnyLength if a model has none."""
    ranks = [ablation.options.ranks]
    return {
        each.name: make_plans(ablation.build(each), machine, ranks=ranks, reads_data=False, only_chosen=True).values()
        for each in _workloads(ablation)
    }


def _workloads(ablation: Ablation) -> list[Configuration]:
    """The configurations that may differ in memory: one of each kind."""
    found: dict[str, Configuration] = {}
    for configuration in ablation.configurations or (ablation.example,):
        found.setdefault(repr(_memory_part(ablation.tree(configuration))), configuration)
    return list(found.values())


def _memory_part(tree: Mapping[str, Any]) -> Any:
    """The settings of a run that its memory may depend on."""
    parts = {key: tree.get(key) for key in ("model", "teacher", "guide", "engine", "eval", "stages", "stage")}
    trainer = {key: value for key, value in (tree.get("trainer") or {}).items() if key not in _NO_MEMORY}
    return parts, trainer, (tree.get("loss") or {}).get("_target_")
