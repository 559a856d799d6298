"""Run a function on several ranks of this machine, for tests."""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

# Imported once, not by every rank: seconds each. One that is not installed is passed over.
PRELOADED = ["torch.distributed", "transformers.models.bert.modeling_bert", "peft", "deepspeed"]


def run_ranks(
    function: Callable[..., Any], world_size: int = 2, *arguments: Any, timeout_s: float = 120.0
) -> list[Any]:
    """`function(*arguments)` on `world_size` CPU processes joined by gloo; their return values, by rank.

    `function` is defined at the top of a module; arguments and results are picklable. The store is a file: no ports.
    The first exception of any rank ends all of them and is raised here, with that rank's traceback.
    """
    place = (inspect.getfile(function), function.__module__, function.__qualname__)
    context = _forkserver()
    with tempfile.TemporaryDirectory() as folder:
        ranks: list[_Rank] = []
        try:
            for rank in range(world_size):
                receiver, sender = context.Pipe(duplex=False)
                settings = (sender, place, arguments, rank, world_size, Path(folder) / "store", timeout_s)
                process = context.Process(target=_run_rank, args=settings, daemon=True)
                process.start()
                sender.close()
                ranks.append(_Rank(process, receiver))
            return _collect(ranks, timeout_s)
        finally:
            for started in ranks:
                started.process.kill()
                started.process.join()


@dataclass
class _Rank:
    process: BaseProcess
    receiver: Connection


def _forkserver() -> Any:
    """Processes forked from a clean one that has imported what they use: quick to start, safe with torch's threads.

    It sees no GPU: DeepSpeed looks for one as it is imported, and these ranks are of the CPU whatever the machine.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):
        forkserver.ensure_running()
    return context


def _collect(ranks: list[_Rank], timeout_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    deadline = time.monotonic() + timeout_s
    while len(results) < len(ranks):
        waiting = [number for number in range(len(ranks)) if number not in results]
        ready = wait([ranks[number].receiver for number in waiting], max(deadline - time.monotonic(), 0.0))
        if not ready:
            raise TimeoutError(f"ranks {waiting} did not finish within {timeout_s} s")
        for number in waiting:
            if ranks[number].receiver in ready:
                results[number] = _result(ranks[number], f"rank {number} of {len(ranks)}")
    return [results[number] for number in range(len(ranks))]


def _result(rank: _Rank, name: str) -> Any:
    try:
        succeeded, result = pickle.loads(rank.receiver.recv_bytes())
    except EOFError:
        rank.process.join()
        raise RuntimeError(f"{name} died with exit code {rank.process.exitcode}") from None
    if not succeeded:
        raise RuntimeError(f"{name} failed:\n{result}")
    return result


def _run_rank(
    sender: Connection,
    place: tuple[str, str, str],
    arguments: tuple[Any, ...],
    rank: int,
    world_size: int,
    store: Path,
    timeout_s: float,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the ranks begin alike, and every time
    try:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(str(store), world_size),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        # Plain pickle copies tensors; multiprocessing's would share their memory, which ends with this process.
        message = pickle.dumps((True, _find(*place)(*arguments)))
    except BaseException:
        message = pickle.dumps((False, traceback.format_exc()))
    sender.send_bytes(message)
    sender.close()
    os._exit(0)  # the peers of a failed rank may wait for it: no orderly farewell


def _find(file: str, module_name: str, function_name: str) -> Callable[..., Any]:
    """The function in its own file: a test module is found by its path, whatever pytest calls it."""
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None, file
        assert spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return getattr(sys.modules[module_name], function_name)
