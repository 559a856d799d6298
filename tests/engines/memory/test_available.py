"""The free memory of a node or a container, read from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import engines.memory.available
from engines.memory.available import CPU_SHARE, TRAINING_HEAP, available_bytes, node_bytes


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("DOT", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_without_a_limit_it_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert node_bytes(tmp_path) is None
    write(tmp_path, proc__meminfo="MemTotal: 900 kB\nMemAvailable:   500 kB\n", proc__self__cgroup="0::/user\n")
    write(tmp_path, sys__fs__cgroup__memoryDOTmax="max\n", sys__fs__cgroup__memoryDOTcurrent="1000\n")
    assert node_bytes(tmp_path) == 500 * 1024


def test_version_2_limits_of_a_group_and_of_those_around_it(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo="MemAvailable: 500 kB\n", proc__self__cgroup="0::/job/step\n")
    around, own = "sys__fs__cgroup__job__memoryDOT", "sys__fs__cgroup__job__step__memoryDOT"
    write(tmp_path, **{f"{around}max": "90000", f"{around}current": "50000"})
    write(tmp_path, **{f"{own}max": "60000", f"{own}current": "40000", f"{own}stat": "anon 1\ninactive_file 5000\n"})
    assert node_bytes(tmp_path) == 25000
    write(tmp_path, **{f"{around}current": "89000"})
    assert node_bytes(tmp_path) == 1000
    write(tmp_path, **{f"{around}current": "99000"})
    assert node_bytes(tmp_path) == 0


def test_version_1_in_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo="MemAvailable: 500 kB\n", proc__self__cgroup="5:cpu:/\n4:memory:/docker/abc\n")
    base = "sys__fs__cgroup__memory__memoryDOT"
    write(tmp_path, **{f"{base}limit_in_bytes": "70000", f"{base}usage_in_bytes": "30000"})
    write(tmp_path, **{f"{base}stat": "inactive_file 7\ntotal_inactive_file 2000\n"})
    assert node_bytes(tmp_path) == 42000


def test_ranks_share_a_node_and_leave_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.memory.available, "node_bytes", lambda: 1000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_bytes(torch.device("cpu")) == pytest.approx(1000 * CPU_SHARE / TRAINING_HEAP / 4)
    monkeypatch.setattr(engines.memory.available, "node_bytes", lambda: None)
    with pytest.raises(ValueError, match=r"kept_chunks=auto: this system does not say .*: set a number"):
        available_bytes(torch.device("cpu"))


def test_this_machine_says_how_much_is_free() -> None:
    assert 2**20 < available_bytes(torch.device("cpu")) < 2**50
