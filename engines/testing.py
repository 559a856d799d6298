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
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_ranks(
    function: Callable[..., Any], world_size: int = 2, *arguments: Any, timeout_s: float = 120.0
) -> list[Any]:
    """`function(*arguments)` on `world_size` CPU processes joined by gloo; their return values, by rank.

    `function` is defined at the top of a module; arguments and results are picklable. The store is a file: no ports.
    The first exception of any rank ends all of them and is raised here, with that rank's traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = _forkserver()
        ranks: dict[Connection, Any] = {}
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            place = (inspect.getfile(function), function.__module__, function.__qualname__)
            process = context.Process(
                target=_run_rank, args=(sender, place, arguments, rank, world_size, folder, timeout_s), daemon=True
            )
            process.start()
            sender.close()
            ranks[receiver] = process
        try:
            return _collect(ranks, timeout_s)
        finally:
            for process in ranks.values():
                process.kill()
                process.join()


def _forkserver() -> Any:
    """Processes forked from a clean one that has imported torch: quick to start, safe with torch's threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed"])
    return context


def _collect(ranks: dict[Connection, Any], timeout_s: float) -> list[Any]:
    results: dict[Connection, Any] = {}
    deadline = time.monotonic() + timeout_s
    while len(results) < len(ranks):
        ready = wait([receiver for receiver in ranks if receiver not in results], max(deadline - time.monotonic(), 0.0))
        if not ready:
            missing = [number for number, receiver in enumerate(ranks) if receiver not in results]
            raise TimeoutError(f"ranks {missing} did not finish within {timeout_s} s")
        for receiver in ready:
            number = list(ranks).index(receiver)
            try:
                succeeded, results[receiver] = pickle.loads(receiver.recv_bytes())
            except EOFError:
                ranks[receiver].join()
                raise RuntimeError(f"rank {number} died with exit code {ranks[receiver].exitcode}") from None
            if not succeeded:
                raise RuntimeError(f"rank {number} of {len(ranks)} failed:\n{results[receiver]}")
    return [results[receiver] for receiver in ranks]


def _run_rank(
    sender: Connection,
    place: tuple[str, str, str],
    arguments: tuple[Any, ...],
    rank: int,
    world_size: int,
    folder: str,
    timeout_s: float,
) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # ranks on the CPU, whatever the machine
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(str(Path(folder) / "store"), world_size),
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
        assert spec is not None and spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return getattr(sys.modules[module_name], function_name)
