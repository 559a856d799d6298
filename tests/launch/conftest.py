"""A user's own package beside this project: dataclasses, a reward, and a configuration that names them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

CODE = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Any, Literal

@dataclass(frozen=True)
class Inner:
    depth: int = 3

@dataclass(frozen=True)
class Saw:
    teeth: int = 3

@dataclass(frozen=True)
class Hammer:
    path: str
    weight: float = 1.0
    kind: Literal["a", "b"] = "a"
    size: int = 4
    limit: int | None = None
    shape: tuple[int, ...] = (1, 2)
    names: list[str] = field(default_factory=list)
    inner: Inner = Inner()
    extra: dict[str, Any] = field(default_factory=dict)
    loud: bool = False
    rewards: list[Any] = field(default_factory=list)
    spare: Inner | Saw | None = None

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"weight must be positive, got {self.weight}")

@dataclass(frozen=True, kw_only=True)
class Job:
    run_name: str | None = None
    output_dir: str = "outputs"
    seed: int = 1
    tool: Any

def reward(rankings, labels, mask, k: int = 3):
    return k

def grade(rankings, labels, mask):
    return rankings.new_zeros(rankings.shape[:-1])
"""

MAIN = """
import os, signal, time
from pathlib import Path
from launch.cli.entry import run

def main(job):
    rank = int(os.environ.get("RANK", "0"))
    print(f"run_name={job.run_name} size={job.tool.size}", flush=True)
    what = job.tool.path
    if what in ("mistake", "refusal", "bug"):
        Path(job.output_dir, job.run_name, "checkpoints", "step-000002").mkdir(parents=True, exist_ok=True)
        if what != "refusal":
            from launch.cli.errors import run_started
            run_started()
        if what == "bug":
            raise KeyError("a bug")
        raise ValueError("corpus.jsonl:7\\nis not JSON")
    if what == "memory":
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB.")
    if what in ("tracker", "tracker fails"):
        import atexit, threading
        atexit.register(time.sleep, 60)
        threading.Thread(target=time.sleep, args=(60,), name="wandb", daemon=True).start()
        if what == "tracker fails":
            raise ValueError("another mistake")
    if what == "interrupt":
        Path(job.output_dir, job.run_name, "checkpoints", "step-000002").mkdir(parents=True, exist_ok=True)
        signal.raise_signal(signal.SIGINT)
        time.sleep(5)
    if what == "rank1":
        from engines.distributed.collectives import gather_objects
        from engines.distributed.process_group import start
        start()
        if rank == 1:
            raise ValueError("only rank 1 fails")
        gather_objects(rank)
    return float(job.tool.size)

run(main, "job")
"""

FILES = {
    "stand_in.py": CODE,
    "main.py": MAIN,
    "conf/job.yaml": """
_target_: stand_in.Job
defaults: [{tool: hammer}, override hydra/job_logging: none, _self_]
run_name: null
output_dir: outputs
seed: 1
hydra: {output_subdir: null, sweep: {dir: "${output_dir}", subdir: .}}
""",
    "conf/tool/hammer.yaml": """
_target_: stand_in.Hammer
path: ???   # where it lies, e.g. ../shelf
weight: 1
kind: a
size: 4
limit: null
shape: [1, 2]
names: []
inner: {_target_: stand_in.Inner, depth: 3}
extra: {}
loud: false
rewards: []
""",
    "conf/tool/saw.yaml": "_target_: stand_in.Saw\nteeth: 3\n",
    "conf/exp/good.yaml": "# @package _global_\ndefaults:\n  - override /tool: hammer\ntool:\n  path: x\n",
    "conf/exp/typo.yaml": "# @package _global_\ntool:\n  path: x\n  wieght: 3\n",
    "conf/exp/kind.yaml": "# @package _global_\ntool:\n  path: x\n  size: large\n",
    "conf/exp/choice.yaml": "# @package _global_\ndefaults:\n  - override /tool: hamer\n",
    "conf/exp/syntax.yaml": "# @package _global_\ntool:\n  path: [x\n",
}


@pytest.fixture(scope="session")
def stand_in_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip("\n"))
    return folder


@pytest.fixture
def stand_in(stand_in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's package, importable."""
    monkeypatch.syspath_prepend(str(stand_in_folder))
    importlib.invalidate_caches()
    yield stand_in_folder
    sys.modules.pop("stand_in", None)
