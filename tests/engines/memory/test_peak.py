"""The peak memory of a piece of work, found after the memory was freed."""

import sys

import pytest
import torch

from engines.memory.peak import watch_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can set its highest mark back")
def test_a_peak_is_found_after_it_was_freed_and_a_larger_one_before_it_does_not_count():
    torch.ones(64 * 2**20).sum()  # 256 MiB
    with watch_memory(torch.device("cpu")) as found:
        torch.ones(16 * 2**20).sum()  # 64 MiB
    assert 60 * 2**20 < found.rise < 120 * 2**20
    assert found.peak == 0


@pytest.mark.gpu
def test_on_a_gpu_the_peak_holds_what_was_there_before():
    device = torch.device("cuda", 0)
    held = torch.ones(2**20, device=device)
    with watch_memory(device) as found:
        torch.ones(16 * 2**20, device=device).sum()
    assert 64 * 2**20 <= found.rise < 80 * 2**20
    assert found.peak >= found.rise + held.numel() * 4
