"""The process group of a run: a single process, or the processes that torchrun has started."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from engines.distributed import heartbeat
from engines.distributed.rendezvous import fresh_store

_timeout = timedelta(minutes=30)
_is_single = False  # whether `start_single` has made the group


def start(timeout_s: float = 1800.0, on_lost_rank: heartbeat.OnLostRank | None = None) -> None:
    """Join the process group that torchrun's environment variables describe. Without them do nothing.

    CPU tensors use gloo, GPU tensors NCCL. A collective that waits longer than `timeout_s` seconds fails. With
    `on_lost_rank` the ranks send heartbeats (engines/distributed/heartbeat.py). Raises ValueError if not all ranks join
    within `timeout_s`, and ConnectionError if they cannot reach each other.
    """
    if not under_torchrun() or dist.is_initialized():
        return
    current = device()
    if current.type == "cuda":
        torch.cuda.set_device(current)
    global _timeout
    _timeout = timedelta(seconds=timeout_s)
    try:
        store, own_rank, size = next(dist.rendezvous("env://", timeout=_timeout))
        store = fresh_store(store, own_rank, size, timeout_s)
        dist.init_process_group(backend(), store=store, rank=own_rank, world_size=size, timeout=_timeout)
        if on_lost_rank is not None:
            heartbeat.start(dist.PrefixStore("heartbeat", store), own_rank, size, timeout_s, on_lost_rank)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise ConnectionError(
            f"the ranks cannot reach each other ({reason}): check that all nodes are up, and that GLOO_SOCKET_IFNAME "
            "and NCCL_SOCKET_IFNAME name the network between them"
        ) from error


def start_single() -> None:
    """Make a process group of this process only, without address or port. DeepSpeed needs a group even for one
    process."""
    global _is_single
    dist.init_process_group(backend(), store=dist.HashStore(), rank=0, world_size=1)
    _is_single = True


def stop() -> None:
    """Leave the process group, if there is one.

    A group of `start_single` is kept: DeepSpeed keeps a reference to it, which the next run of this process (in a
    sweep) needs.
    """
    heartbeat.stop()
    if dist.is_initialized() and not _is_single:
        dist.destroy_process_group()


def timeout() -> timedelta:
    """The time limit of a collective: the `timeout_s` of `start`."""
    return _timeout


def under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def backend() -> str:
    """The backends of the process group, by device."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def device() -> torch.device:
    """This rank's GPU (chosen by LOCAL_RANK), or the CPU if there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= available:
        raise ValueError(f"LOCAL_RANK is {local_rank} but this machine shows {available} GPUs: lower --nproc_per_node")
    return torch.device("cuda", local_rank)


def rank() -> int:
    """The rank of this process among all processes of the run. It is known before `start`."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if under_torchrun() else 0


def world_size() -> int:
    """The number of processes of the run. It is known before `start`."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if under_torchrun() else 1


def is_main() -> bool:
    """Whether this is rank 0, which prints and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process has reached this call. It uses gloo: NCCL's barrier would allocate memory on a GPU that
    it guesses."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))
