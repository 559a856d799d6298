"""Every GPU test and GPU benchmark, within nine minutes, into one JSON.

    python benchmarks/gpu.py --output gpu.json           # on a machine with a GPU
    python benchmarks/gpu.py --cpu --output toy.json     # the same at toy sizes on a CPU: about two minutes
    python benchmarks/gpu.py --only train:embedder:padded peak

It needs torch and transformers. What else is missing is said in the JSON by the part that needs it: pytest runs the
tests, sentence-transformers is the peer. No weights are downloaded: they are drawn from configurations.

Each part is a process of its own with a time limit, so that a part that fails or hangs costs only itself. The file is
written anew after every part. `status` of a part: ok, failed (with the error by its name), timed out, unavailable
(with what is missing), or skipped (no time was left). The share of the peak (MFU) divides operations on real tokens by
the bf16 matrix products of the part `peak`, on the same card in the same run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUDGET_S = 530.0  # of all parts; nine minutes with the start
TOY_PATIENCE = 4.0  # a CPU may have other work: times mean nothing at toy sizes
SIDES = ("padded", "packed", "sentence-transformers")
TRAINED = ("embedder", "reranker", "llm_reranker", "cached")


def limits() -> dict[str, float]:
    """The parts in their order, the most important first, each with its time limit in seconds."""
    parts = {"machine": 40.0, "peak": 40.0, "tests": 120.0, "collectives": 80.0, "packing": 60.0}
    parts |= {f"train:{name}:{side}": 60.0 for name in TRAINED for side in SIDES}
    parts |= {f"infer:{name}:{side}": 50.0 for name in ("encode", "rerank") for side in SIDES}
    return parts | {"memory": 80.0, "compilation": 120.0}


def run_part(name: str, toy: bool, limit_s: float) -> dict[str, Any]:
    """Run a part in this process."""
    from benchmarks.gpu_parts import checks, machine, ours, peer
    from benchmarks.gpu_parts.workloads import of_size

    simple: dict[str, Callable[[], dict[str, Any]]] = {
        "machine": lambda: machine.describe(toy),
        "peak": lambda: machine.matmul_peak(toy),
        "tests": lambda: checks.gpu_tests(toy, limit_s),
        "collectives": lambda: checks.collectives(toy, limit_s),
        "packing": lambda: checks.packing(toy),
        "memory": lambda: checks.memory(toy),
        "compilation": lambda: ours.compilation(toy),
    }
    if name in simple:
        return simple[name]()
    kind, workload_name, side = name.split(":")
    workload = of_size(workload_name, toy)
    if side == "sentence-transformers":
        return {"train": peer.train, "infer": peer.infer}[kind](workload, toy)
    return {"train": ours.train, "infer": ours.infer}[kind](workload, toy, packed=side == "packed")


def child(name: str, toy: bool, limit_s: float, folder: Path) -> None:
    """Run one part and write its result, or its error, as JSON. What it prints goes to a file."""
    os.setsid()  # so that its own processes end with it
    sys.path.insert(0, str(ROOT))
    log = os.open(folder / "log.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from benchmarks.gpu_parts.ours import Unavailable

    try:
        result = {"status": "ok", **run_part(name, toy, limit_s)}
    except Unavailable as error:
        result = {"status": "unavailable", "reason": str(error)}
    except Exception as error:  # one part must not cost the others
        lines = traceback.format_exc().splitlines()
        result = {"status": "failed", "error": type(error).__name__, "message": str(error)[:1000], "trace": lines[-12:]}
    (folder / "result.json").write_text(json.dumps(result))


def run_in_process(name: str, toy: bool, limit_s: float, method: str) -> dict[str, Any]:
    """Run a part in a process of its own: forked from this one, which has imported what takes long and has never
    touched the GPU, or, with the method "spawn", a new one."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        process = multiprocessing.get_context(method).Process(target=child, args=(name, toy, limit_s, folder))
        process.start()
        process.join(limit_s)
        if process.exitcode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.kill()
            process.join()
            return {"status": "timed out", "limit_s": limit_s}
        file, log = folder / "result.json", folder / "log.txt"
        found = json.loads(file.read_text()) if file.is_file() else {"status": "failed", "error": "the process died"}
        if found["status"] == "failed":
            found |= {"exit_status": process.exitcode, "log": log.read_text()[-2000:] if log.is_file() else ""}
        return {**found, "part_s": round(time.monotonic() - started, 1)}


def import_slow_modules() -> None:
    """Import what every part imports, once, without touching the GPU: a process that has cannot be forked."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PYTORCH_NVML_BASED_CUDA_CHECK="1")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # of the processes of a part
    sys.path.insert(0, str(ROOT))
    import torch  # noqa: F401
    import transformers  # noqa: F401
    from transformers import AutoModel, BertModel  # noqa: F401  (loads the part that takes long)

    with suppress(ImportError):
        import sentence_transformers  # noqa: F401


def main() -> None:
    arguments = parse()
    patience = TOY_PATIENCE if arguments.cpu else 1.0
    chosen = {name: patience * limit for name, limit in limits().items() if name in (arguments.only or limits())}
    if unknown := set(arguments.only) - set(chosen):
        sys.exit(f"--only {' '.join(sorted(unknown))}: choose {' '.join(limits())}")
    record: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "commit": commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "toy_sizes": arguments.cpu,
        "parts": {},
    }
    end = time.monotonic() + patience * arguments.seconds
    import_slow_modules()
    method = "fork"
    for name, limit in chosen.items():
        left = end - time.monotonic()
        if left < 10:
            record["parts"][name] = {"status": "skipped", "reason": f"no time left of {arguments.seconds:.0f} s"}
        else:
            record["parts"][name] = run_in_process(name, arguments.cpu, min(limit, left), method)
            if "forked subprocess" in record["parts"][name].get("message", ""):  # the GPU was touched after all
                method = "spawn"
                record["parts"][name] = run_in_process(name, arguments.cpu, min(limit, left), method)
        record["table"] = table(record["parts"])
        write(arguments.output, record)
        print(f"{name}: {summary(record['parts'][name])}", flush=True)
    print(f"\n{markdown(record['table'])}\n\n{arguments.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="these parts alone")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="for all parts together")
    return parser.parse_args()


def commit() -> str | None:
    """The commit of the code, if git knows it."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def write(file: Path, record: dict[str, Any]) -> None:
    """Replace the file in one go: it is whole at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(file)


def summary(part: dict[str, Any]) -> str:
    """One line about a part."""
    if part["status"] != "ok":
        what = part.get("reason") or " ".join(filter(None, [part.get("error"), part.get("message")]))
        return f"{part['status']} {what}".strip()[:300]
    speed = f", {part['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in part else ""
    return f"ok{speed}, {part['part_s']:.0f} s"


def table(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each question: tokens/s of every side, ratio to the peer, share of the matmul peak."""
    peak = parts.get("peak", {}).get("matmul_bf16_flops_per_s")
    rows = []
    for question in dict.fromkeys(name.rpartition(":")[0] for name in limits() if name.count(":") == 2):
        sides = {side: parts.get(f"{question}:{side}", {}) for side in SIDES}
        speeds = {side: found.get("tokens_per_s") for side, found in sides.items()}
        ours = {side: speed for side, speed in speeds.items() if speed and side != SIDES[-1]}
        best = max(ours, key=ours.get, default=None)  # type: ignore[arg-type]
        peer, flops = speeds[SIDES[-1]], sides[best]["model_flops_per_s"] if best else None
        rows.append(
            {
                "question": question,
                **{f"{side}_tokens_per_s": speed for side, speed in speeds.items()},
                **{f"{side}_status": found.get("status", "not run") for side, found in sides.items()},
                "ratio": ours[best] / peer if best and peer else None,
                "share_of_peak": flops / peak if flops and peak else None,
                "peak_memory_mib": sides[best].get("peak_memory_mib") if best else None,
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for docs/performance.md."""
    lines = [f"| question | {' | '.join(f'{side}, tokens/s' for side in SIDES)} | ratio | share of the bf16 peak |"]
    lines.append("|---|" + "---|" * (len(SIDES) + 2))
    for row in rows:
        speeds = [row[f"{side}_tokens_per_s"] for side in SIDES]
        cells = [f"{v:,.0f}" if v else row[f"{side}_status"] for v, side in zip(speeds, SIDES, strict=True)]
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        share = f"{row['share_of_peak']:.0%}" if row["share_of_peak"] else ""
        lines.append(f"| {row['question']} | {' | '.join(cells)} | {ratio} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
