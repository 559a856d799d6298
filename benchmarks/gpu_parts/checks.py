"""What must hold on a GPU: the tests marked `gpu`, NCCL, packed rows equal to padded ones, and the predicted memory."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_parts.machine import device
from benchmarks.gpu_parts.ours import Steps, Unavailable, make_model
from benchmarks.gpu_parts.workloads import Workload, draw_rows, of_size

ROOT = Path(__file__).resolve().parents[2]
BF16_TOLERANCE = 0.05  # of the difference of embeddings or scores, relative to their size


def gpu_tests(toy: bool, limit_s: float) -> dict[str, Any]:
    """Run every test marked `gpu`, file by file of the repository. Returns the outcome of each by its name.

    pytest's plugins, and packages that a test file imports, may be missing: such a file is an error by its name.
    """
    if importlib.util.find_spec("pytest") is None:
        raise Unavailable("pytest is not installed")
    files = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in file.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-q", "-m", "gpu"]
        command += ["-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junit-xml={report}"]
        names = [str(file.relative_to(ROOT)) for file in files]
        done = subprocess.run(
            [*command, *names], cwd=ROOT, capture_output=True, text=True, timeout=limit_s, env=_environment()
        )
        if not report.is_file():
            raise RuntimeError(f"pytest wrote no report: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        outcomes = _outcomes(report)
    kinds = [each["outcome"] for each in outcomes.values()]
    counts = {kind: kinds.count(kind) for kind in ("passed", "failed", "skipped")}
    if counts["skipped"] == len(kinds):
        raise Unavailable(f"{len(kinds)} tests skipped: {next(iter(outcomes.values()))['message']}")
    return {"files": names, "counts": counts, "tests": outcomes}


def _outcomes(report: Path) -> dict[str, Any]:
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        kind = "passed" if found is None else "skipped" if found.tag == "skipped" else "failed"
        name = f"{case.get('classname')}::{case.get('name')}"
        message = "" if found is None else (found.get("message") or "")[:500]
        outcomes[name] = {"outcome": kind, "seconds": float(case.get("time") or 0), "message": message}
    return outcomes


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def collectives(toy: bool, limit_s: float) -> dict[str, Any]:
    """The collectives of a step on one rank, and on two where there are two cards (gloo on a CPU)."""
    cards = 2 if toy else min(torch.cuda.device_count(), 2)
    found: dict[str, Any] = {"cards": None if toy else torch.cuda.device_count()}
    for ranks in range(1, cards + 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        code = "from benchmarks.gpu_parts.checks import check_rank; import sys; check_rank(sys.argv[1] == 'toy')"
        processes = []
        for rank in range(ranks):
            place = {"RANK": rank, "LOCAL_RANK": 0 if toy else rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
            environment = _environment() | {name: str(value) for name, value in place.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1"} | ({"CUDA_VISIBLE_DEVICES": ""} if toy else {})
            command = [sys.executable, "-c", code, "toy" if toy else "whole"]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate(timeout=limit_s / 2)[1] for process in processes]
        wrong = [error[-1500:] for process, error in zip(processes, errors, strict=True) if process.returncode]
        found[f"{ranks} rank(s)"] = wrong or "passed"
    if cards < 2:
        found["2 rank(s)"] = "not run: one card"
    return found


def check_rank(toy: bool) -> None:
    """Gather rows, agree, and train a step, on the rank of this process; any difference is an AssertionError."""
    import torch.distributed as dist

    from engines.distributed import process_group
    from engines.distributed.collectives import agree_on_device
    from engines.distributed.exchange import RowExchange
    from engines.distributed.process_group import rank, world_size

    process_group.start(timeout_s=60)
    here = process_group.device()
    rows = [list(range(number, 7, world_size())) for number in range(world_size())]
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).to(here)
    reader = np.arange(8) // 4 % world_size()  # one row is read twice
    place = np.array([5, 0, 6, 5, 1, 2, 3, 4])
    exchange = RowExchange.plan(rows, reader, place)
    found = exchange.to_readers({"embedding": values[rows[rank()]]})["embedding"]
    assert found.equal(values[place[reader == rank()]]), "rows are exchanged wrongly"
    sums = exchange.to_makers({"embedding": torch.ones_like(found)})["embedding"][:, 0]
    assert sums.tolist() == [1.0 + (row == 5) for row in rows[rank()]], "gradients are summed wrongly"
    agreed, no_signal = agree_on_device(torch.tensor(rank() == 0, device=here))
    assert bool(agreed) == (world_size() == 1)
    assert bool(no_signal)

    workload = of_size("embedder", toy=True)  # a tiny model, on the device of this rank
    model = make_model(workload, toy, packed=False).to(here)
    steps = Steps(workload, model, toy=True, kept=1)
    norms = [steps.step() for _ in range(3)]
    assert all(0 < norm < float("inf") for norm in norms), norms
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    of_main = weights.clone()
    if world_size() > 1:
        dist.broadcast(of_main, src=0)
    assert of_main.equal(weights), "the ranks' weights differ"
    process_group.stop()


def packing(toy: bool) -> dict[str, Any]:
    """The largest difference between packed and padded rows, relative to the largest value, by architecture."""
    from data.batch import TokenSequences
    from data.collate import Collator
    from engines.precision import MixedPrecision
    from inference.score import represent_sequences

    found: dict[str, Any] = {"tolerance": BF16_TOLERANCE}
    for name in ("embedder", "reranker", "llm_reranker"):
        workload = of_size(name, toy)
        rows = [row for each in draw_rows(workload, 0, toy)[:8] for row in each]
        ids, lengths = np.concatenate(rows).astype(np.int32), np.array([len(row) for row in rows], dtype=np.int32)
        values = []
        for packed in (False, True):
            model = make_model(workload, toy, packed=packed).eval()
            runner = MixedPrecision(model, torch.bfloat16)
            sequences = TokenSequences({"input_ids": ids}, lengths)
            values.append(next(iter(represent_sequences(runner, sequences, Collator({}, 4096)).values())))
            del model
        padded, ours = values
        difference = float((padded - ours).abs().max() / padded.abs().max())
        found[name] = {"relative_difference": difference, "holds": difference <= BF16_TOLERANCE}
    return found


def memory(toy: bool) -> dict[str, Any]:
    """The peak memory of a step as launch/plan.py computes it, and as it is measured, by number of kept chunks."""
    found: dict[str, Any] = {}
    for name in ("embedder", "llm_reranker"):
        workload = of_size(name, toy)
        for kept in (0, 10_000):
            predicted = predicted_bytes(workload, kept, toy)
            measured = None if toy else measured_bytes(workload, kept)
            ratio = None if measured is None else predicted / measured
            key = f"{name}, {'all graphs kept' if kept else 'all chunks recomputed'}"
            found[key] = {"predicted_mib": round(predicted / 2**20), "ratio": ratio}
            found[key]["measured_mib"] = None if measured is None else round(measured / 2**20)
    return found


def predicted_bytes(workload: Workload, kept_chunks: int, toy: bool) -> float:
    """The peak of the first batch's step: weights, optimizer, and what the chunks hold in their order."""
    from benchmarks.gpu_parts.ours import make_batch
    from benchmarks.gpu_parts.workloads import make_backbone, stand_in_for_peft, wrap
    from data.collate import plan_chunks
    from engines.memory.live_bytes import FakeTensorModel
    from engines.memory.state_bytes import Parameters
    from engines.memory.step_peak import step_peak
    from engines.torch_engine import TorchEngineConfig

    stand_in_for_peft()
    model = wrap(workload, make_backbone(workload, torch.device("meta"), toy))
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    parameters = Parameters(sum(parameter.numel() for parameter in model.parameters()), sum(trained), max(trained))
    lengths = make_batch(workload, 0, toy).sequences.lengths.tolist()
    shapes = [(len(chunk), lengths[chunk[0]]) for chunk in plan_chunks(lengths, workload.token_budget)]
    traced = FakeTensorModel(model, autocast=torch.bfloat16)
    features = {"input_ids": 20, "attention_mask": 1}
    chunks = [traced.chunk(features, rows, tokens) for rows, tokens in shapes]
    states = TorchEngineConfig().state_bytes(parameters, ranks=1, optimizer="adamw")
    return states.weights + states.optimizer + step_peak(chunks, kept_chunks, states, parameters)


def measured_bytes(workload: Workload, kept_chunks: int) -> float:
    """The peak of torch's tensors on the GPU in the second step on the first batch."""
    steps = Steps(workload, make_model(workload, False, packed=False), False, kept=kept_chunks)
    steps.batches = steps.batches[:1] * len(steps.batches)
    steps.step()
    torch.cuda.synchronize(device(False))
    torch.cuda.reset_peak_memory_stats()
    steps.step()
    torch.cuda.synchronize(device(False))
    return float(torch.cuda.max_memory_allocated())
