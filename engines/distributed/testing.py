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

# Imported once, since each takes seconds; the ranks inherit them. A module that is not installed is skipped.
PRELOADED = ["torch.distributed", "transformers.models.bert.modeling_bert", "peft", "deepspeed"]


def run_ranks(
    function: Callable[..., Any], world_size: int = 2, *arguments: Any, timeout_s: float = 120.0
) -> list[Any]:
    """Call `function(*arguments)` on `world_size` CPU processes that gloo connects. Returns the results, by rank.

    `function` must be defined at the top level of a module; arguments and results must be picklable. The store is a
    file, so no port is needed. The first exception of any rank ends all of them and is raised here, with the traceback
    of that rank.
    """
    location = (inspect.getfile(function), function.__module__, function.__qualname__)
    context = _forkserver()
    with tempfile.TemporaryDirectory() as folder:
        ranks: list[_Rank] = []
        try:
            for rank in range(world_size):
                receiver, sender = context.Pipe(duplex=False)
                settings = (sender, location, arguments, rank, world_size, Path(folder) / "store", timeout_s)
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
    """A context whose processes are forked from a clean server process, which has imported the slow modules.

    They start quickly, and torch's threads cannot harm the fork. The server sees no GPU: DeepSpeed looks for one when
    it is imported, and these ranks run on the CPU on every machine.
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
    location: tuple[str, str, str],
    arguments: tuple[Any, ...],
    rank: int,
    world_size: int,
    store: Path,
    timeout_s: float,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the same on all ranks and in every call
    try:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(str(store), world_size),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        # Plain pickle copies tensors. That of multiprocessing would share their memory, which ends with this process.
        message = pickle.dumps((True, _load_function(*location)(*arguments)))
    except BaseException:
        message = pickle.dumps((False, traceback.format_exc()))
    sender.send_bytes(message)
    sender.close()
    os._exit(0)  # a normal exit might wait for ranks that wait for this one


def _load_function(file: str, module_name: str, function_name: str) -> Callable[..., Any]:
    """Load the function from its file. A test module is loaded by its path, whatever name pytest gave it."""
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None, file
        assert spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return getattr(sys.modules[module_name], function_name)
