"""The environment of a run: the command, the versions, the code's revision and the machine. Environment variables are
not recorded, because they may hold secrets."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from runs.files import read_json
from runs.places import Contents
from runs.redaction import redact_command
from runs.source_tree import PACKAGES, ROOT, hash_sources

FILE = "environment.json"
PLACES = "places"  # the key of the content of the files that settings name
START_STEP = "start_step"  # the key of the step at which the run started: of the checkpoint of resume=PATH, else 0


def describe_environment(world_size: int) -> dict[str, Any]:
    """The content of environment.json except for the data, in JSON types. Sizes are in bytes."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": redact_command([Path(sys.executable).name, *sys.argv]),
        "world_size": world_size,
        "launch": launch_name(),
        "git": git_revision(),
        "code_hash": hash_sources(PACKAGES),  # also of changes that are no commit
        "versions": {"python": platform.python_version(), **package_versions()},
        "hardware": describe_hardware(),
    }


def read_environment(folder: Path) -> dict[str, Any]:
    """The content of a run's environment.json; empty if there is none. Raises ValueError if it is broken."""
    file = folder / FILE
    content: dict[str, Any] = read_json(file) if file.is_file() else {}
    return content


def known_contents(folder: Path) -> Contents:
    """The content of the files that the settings of a run named when it started; empty if it was not recorded."""
    contents: Contents = read_environment(folder).get(PLACES, {})
    return contents


def launch_name() -> str | None:
    """An id that is equal for all attempts of one launch (on rank 0): the restarts of one torchrun, or those of a
    requeued Slurm job, whose number launch/cluster/slurm.sh gives to torchrun as its id. None without torchrun."""
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    if job is None:
        return None
    launch = job if job != "none" else f"{platform.node()} {os.getppid()}"  # without --rdzv_id: rank 0's own torchrun
    return hashlib.sha256(launch.encode()).hexdigest()[:16]


def is_restart() -> bool:
    """Whether torchrun (--max-restarts) has restarted this rank, or Slurm has requeued its job."""
    return any(os.environ.get(f"{launcher}_RESTART_COUNT", "0") != "0" for launcher in ("TORCHELASTIC", "SLURM"))


def git_revision() -> dict[str, Any] | None:
    """The commit of the code and whether tracked files differ from it; None outside a git clone."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


@cache  # the stages of a run are described one by one
def package_versions() -> dict[str, str]:
    """The installed version of every package that setup.py names."""
    versions = {}
    for requirement in metadata.requires("plackett") or []:
        found = re.match(r"[\w.-]+", requirement)
        assert found is not None
        try:
            versions[found.group()] = metadata.version(found.group())
        except metadata.PackageNotFoundError:
            continue  # it belongs to an extra that is not installed
    return versions


def describe_hardware() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cuda": torch.version.cuda,
        "gpus": [
            {"name": gpu.name, "memory_bytes": gpu.total_memory}
            for gpu in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ],
    }


def cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()
