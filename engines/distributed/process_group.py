"""The processes of a run: one alone, or those that torchrun started."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from engines.distributed import heartbeat
from engines.distributed.rendezvous import fresh_store

_timeout = timedelta(minutes=30)
_alone = False  # whether the group is one of this process only, of `start_alone`


def start(timeout_s: float = 1800.0, on_lost_rank: heartbeat.OnLostRank | None = None) -> None:
    """Join the process group that torchrun's environment describes; without that environment do nothing.

    CPU tensors travel by gloo, GPU tensors by NCCL. A collective that waits longer than `timeout_s` seconds fails.
    With `on_lost_rank`, the ranks watch each other (engines/distributed/heartbeat.py). Raises ValueError if not all
    ranks come within that time, ConnectionError where they cannot reach each other.
    """
    if not under_torchrun() or dist.is_initialized():
        return
    current = device()
    if current.type == "cuda":
        torch.cuda.set_device(current)
    global _timeout
    _timeout = timedelta(seconds=timeout_s)
    try:
        store, own, size = next(dist.rendezvous("env://", timeout=_timeout))
        store = fresh_store(store, own, size, timeout_s)
        dist.init_process_group(backend(), store=store, rank=own, world_size=size, timeout=_timeout)
        if on_lost_rank is not None:
            heartbeat.watch(dist.PrefixStore("heartbeat", store), own, size, timeout_s, on_lost_rank)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise ConnectionError(
            f"the ranks cannot reach each other ({reason}): see that all nodes are up, and that GLOO_SOCKET_IFNAME and "
            "NCCL_SOCKET_IFNAME name the network between them"
        ) from error


def start_alone() -> None:
    """A group of this process only, without address or port: DeepSpeed wants a group even for one process."""
    global _alone
    dist.init_process_group(backend(), store=dist.HashStore(), rank=0, world_size=1)
    _alone = True


def stop() -> None:
    """Leave the process group, if there is one. A group of this process only stays: DeepSpeed holds on to it, and the
    next run of the process (a sweep's) would find it gone."""
    heartbeat.leave()
    if dist.is_initialized() and not _alone:
        dist.destroy_process_group()


def timeout() -> timedelta:
    """How long a collective may wait, as `start` was told."""
    return _timeout


def under_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def device() -> torch.device:
    """This rank's GPU (by LOCAL_RANK), or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= available:
        raise ValueError(f"LOCAL_RANK is {local_rank} but this machine shows {available} GPUs: lower --nproc_per_node")
    return torch.device("cuda", local_rank)


def rank() -> int:
    """This process' number among all processes of the run; known before `start`."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if under_torchrun() else 0


def world_size() -> int:
    """The number of processes of the run; known before `start`."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if under_torchrun() else 1


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process has come here (by gloo: NCCL's own barrier would guess a GPU and occupy it)."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))
