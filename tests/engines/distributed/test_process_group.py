"""Rank and size are known with and without torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engines.distributed import process_group

ALONE = """
import os
import torch.distributed as dist
from engines.distributed import process_group

process_group.start()
assert not dist.is_initialized()
assert (process_group.rank(), process_group.world_size(), process_group.is_main()) == (0, 1, True)
process_group.barrier()
os.environ["WORLD_SIZE"] = "4"
assert (process_group.rank(), process_group.world_size()) == (0, 1), "a size without a rank is not torchrun's"
process_group.start()
process_group.barrier()
os.environ["RANK"] = "3"
assert (process_group.rank(), process_group.world_size(), process_group.is_main()) == (3, 4, False)
process_group.start_single()
assert dist.get_world_size() == 1
process_group.stop()
assert dist.is_initialized(), "DeepSpeed holds on to a group of one"
"""


def test_a_process_without_torchrun_and_one_before_the_start() -> None:
    """A new interpreter, since an earlier test may have left a process group in this one."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment["PYTHONPATH"] = str(Path(process_group.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_group.device() == torch.device("cuda", 1)
    assert process_group.backend() == "cpu:gloo,cuda:nccl"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="LOCAL_RANK is 2 but this machine shows 2 GPUs"):
        process_group.device()
