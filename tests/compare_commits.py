"""Compare what two commits train: the same experiments, on tiny models, must give the same bits.

    python tests/compare_commits.py 14a0a6e WORKTREE [--only NAME,...] [--jobs N] [--keep DIR]

A commit is whatever git takes for one, or WORKTREE: the files as they lie there, committed or not. Every experiment of
the first commit runs 6 steps (per stage) on the CPU, in one process, under its own engine; those of `TWO_RANKS` run on
two ranks as well, under plain PyTorch and under ZeRO-2. A commit is known by its command line and its run directories
alone: its modules may bear any name. Compared are metrics.jsonl and summary.json without times and memory, the ranked
test documents, and every tensor in the export and in the checkpoints. Exit status 1 where anything differs or fails.

Results of a commit stay in DIR, and the next comparison with it runs the other one alone; those of WORKTREE, and of a
commit that is given twice (does it equal itself?), are made anew each time, and stay only where something differs.
Runs are forked from one process per commit, which has imported the libraries already: they start in a second.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
WORKTREE = "WORKTREE"
SETTINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}
SETTINGS |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
TWO_RANKS = "reranker_grpo embedder_grpo llm_reranker_grpo embedder_infonce embedder_infonce_lora embedder_large_batch "
TWO_RANKS += "embedder_matryoshka embedder_qwen3"
NOISE = ("seconds", "_per_s", "_bytes")  # how the names of times and of memory end
PRELOADED = "torch transformers deepspeed peft scipy.stats matplotlib.pyplot bm25s hydra "
PRELOADED += "transformers.models.bert.modeling_bert transformers.models.qwen3.modeling_qwen3"
TIMEOUT_S = 300.0
DONE = "done.txt"  # the command line of a run that came through
OPTIONS = (  # a pattern of experiments' names, and what is set for them; the last value of a key counts
    ("", "output_dir=outputs logger=none data=beir data.path={inputs}/beir data.cache_dir=../cache"),
    ("", "trainer.max_steps=6 trainer.eval_every=3 trainer.save_every=3 eval.metric=MAP data.candidates.depth=12"),
    ("", "model.name_or_path={inputs}/bert model.max_length=48 trainer.token_budget=160"),
    ("", "trainer.learning_rate=0.01"),  # here and below such that most exports are of a step, not of the start
    ("infonce_lora|bce", "trainer.learning_rate=0.003"),
    ("matryoshka|llm_reranker_grpo", "trainer.learning_rate=0.0005"),
    ("preference", "model.name_or_path={inputs}/reranker"),
    ("distill", "teacher.name_or_path={inputs}/reranker teacher.max_length=48"),
    ("reranker", "eval.depth=12"),
    ("^llm", "model.name_or_path={inputs}/causal model.max_length=192 trainer.token_budget=1024"),
    ("^embedder_(?!grpo)", "trainer.batch_size=8"),
    ("matryoshka", "loss.dims=[32,16,8] eval.dims=[16,8]"),
    ("embedder_qwen3", "model.name_or_path={inputs}/decoder"),
)


@dataclass(frozen=True)
class Run:
    """One experiment under one engine."""

    experiment: str
    engine: str
    ranks: int = 1

    @property
    def name(self) -> str:
        return self.experiment if self.ranks == 1 else f"{self.experiment}-{self.engine}-{self.ranks}"

    def directory(self, results: Path) -> Path:
        return results / self.name / "outputs" / self.experiment

    def overrides(self, inputs: str) -> list[str]:
        """The command line, `inputs` and all else relative to the run's folder: no place of a commit's stands in it."""
        options = " ".join(text for pattern, text in OPTIONS if re.search(pattern, self.experiment))
        settings = dict(option.split("=", 1) for option in options.format(inputs=inputs).split())
        settings |= {"engine": self.engine} if self.ranks > 1 else {}
        return [f"+exp={self.experiment}", *(f"{key}={value}" for key, value in settings.items())]


def runs_of(source: Path, only: str | None) -> list[Run]:
    """List the runs of the experiments in that checkout. ValueError where `only` names none of them."""
    runs = []
    for file in sorted((source / "conf" / "exp").glob("*.yaml")):
        own = re.search(r"override /engine: (\w+)", file.read_text())
        runs.append(Run(file.stem, own.group(1) if own else "torch"))
        runs += [Run(file.stem, engine, 2) for engine in ("torch", "zero2") if file.stem in TWO_RANKS.split()]
    wanted = set(only.split(",")) if only else {run.name for run in runs}
    if unknown := wanted - {name for run in runs for name in (run.experiment, run.name)}:
        raise ValueError(f"--only {','.join(sorted(unknown))}: no such run: {', '.join(run.name for run in runs)}")
    return [run for run in runs if wanted & {run.experiment, run.name}]


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, stdout=subprocess.PIPE).stdout


def check_out(commit: str, folder: Path) -> Path:
    """The files of a commit, or those of the working tree that git does not ignore."""
    folder.mkdir()
    if commit != WORKTREE:
        subprocess.run(["tar", "x", "-C", str(folder)], input=git("archive", commit), check=True)
        return folder
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def write_inputs(keep: Path) -> Path:
    """Tiny models and a collection, in a folder that is named after their content."""
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory(dir=keep) as temporary, redirect_stdout(None), redirect_stderr(io.StringIO()):
        tiny_models, collection = (importlib.import_module(name) for name in ("tiny_models", "tiny_collection"))
        folder = Path(temporary, "inputs")
        tiny_models.write_tiny_bert(folder / "bert")
        tiny_models.write_tiny_bert(folder / "reranker", reranker=True, seed=1)
        tiny_models.write_tiny_decoder(folder / "decoder")
        tiny_models.write_tiny_causal(folder / "causal", architecture="qwen3")
        (folder / "beir").mkdir()
        collection.write_tiny_collection(folder / "beir")
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        content = b"".join(str(file.relative_to(folder)).encode() + file.read_bytes() for file in files)
        named = keep / f"inputs-{hashlib.sha256(content).hexdigest()[:12]}"
        if not named.is_dir():
            folder.rename(named)
    return named


def perform(source: Path, runs: list[Run], results: Path, inputs: Path, jobs: int) -> None:
    """Train what was not through with this very command line, in one process that forks."""
    tasks = []
    for run in runs:
        folder, overrides = results / run.name, run.overrides(f"../../{inputs.name}")
        if not (folder / DONE).is_file() or (folder / DONE).read_text() != " ".join(overrides):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            tasks.append({"folder": str(folder), "overrides": overrides, "ranks": run.ranks})
    if tasks:
        environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(source)}
        command = [sys.executable, __file__, "--serve", str(source), "--jobs", str(jobs)]
        with (results / "server.txt").open("w") as log:
            plan = json.dumps(tasks)
            subprocess.run(command, input=plan, text=True, env=environment, check=True, stdout=log, stderr=log)


def serve(source: Path, jobs: int) -> None:
    """Fork a process for each task on stdin, `jobs` ranks at a time."""
    waiting = json.load(sys.stdin)
    sys.path[0] = str(source / "launch")  # as that of `python launch/train.py`
    for name in PRELOADED.split():
        importlib.import_module(name)
    running: dict[int, tuple[dict[str, Any], float]] = {}  # process: its task, when it has to be through
    try:
        while waiting or running:
            busy = sum(task["ranks"] for task, _ in running.values())
            if waiting and (not running or busy + waiting[0]["ranks"] <= jobs):
                task = waiting.pop(0)
                running[fork(source, **task)] = task, time.monotonic() + TIMEOUT_S
            for process, (task, deadline) in list(running.items()):
                if time.monotonic() > deadline:
                    os.killpg(process, signal.SIGKILL)
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    del running[process]
                if ended and status == 0:
                    Path(task["folder"], DONE).write_text(" ".join(task["overrides"]))
            time.sleep(0.02)
    finally:
        for process in running:
            os.killpg(process, signal.SIGKILL)


def fork(source: Path, folder: str, overrides: list[str], ranks: int) -> int:
    """Start `python launch/train.py`, or what torchrun makes of it, in a process group of its own: its id."""
    if process := os.fork():
        return process
    os.setsid()
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status: Any = None
    try:
        train(source, overrides) if ranks == 1 else launch(source, overrides, ranks)
    except SystemExit as end:
        status = end.code
    except BaseException:
        status = traceback.print_exc() or 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(bool(status)))


def train(source: Path, overrides: list[str]) -> None:
    sys.argv = [str(source / "launch" / "train.py"), *overrides]
    runpy.run_path(sys.argv[0], run_name="__main__")


def launch(source: Path, overrides: list[str], ranks: int) -> None:
    """Start `train` on each rank, as torchrun starts a script, but by forking."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    options = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": str(os.getpid()), "max_restarts": 0}
    logs = DefaultLogsSpecs(log_dir="logs")
    elastic_launch(LaunchConfig(1, 1, ranks, **options, start_method="fork", logs_specs=logs), train)(source, overrides)


def failure(folder: Path) -> str:
    """The last error in the log of a run that did not come through; empty where it did."""
    if (folder / DONE).is_file():
        return ""
    log = folder / "log.txt"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.is_file() else []
    found = [[line for line in lines if re.match(start, line)] for start in (r"error\b", r"[\w.]+(Error|Exception):")]
    return (found[0] or found[1] or lines or ["it printed nothing"])[-1].strip()[:300]


def contents(folder: Path) -> Iterator[tuple[str, Any]]:
    """All of a run directory that must not change, in the order of its making: where it stands, and what it is."""
    from safetensors.torch import load_file

    for number, text in enumerate((folder / "metrics.jsonl").read_text().splitlines(), start=1):
        line = json.loads(text)
        yield from leaves(line, f"metrics.jsonl line {number} (step {line.get('step')}, {line.get('split')})")
    yield from leaves(json.loads((folder / "summary.json").read_text()), "summary.json")
    for file in sorted(folder.glob("runs/*.run")):
        for number, text in enumerate(file.read_text().splitlines(), start=1):
            yield f"runs/{file.name} line {number}", text
    files = {file: None for part in ("model/**", "**") for file in sorted(folder.glob(f"{part}/*.safetensors"))}
    for file in files:
        for name, tensor in load_file(file).items():
            yield f"{file.relative_to(folder)}, {name}", tensor


def leaves(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """The values in a tree of JSON, as they are printed (NaN equals NaN), without times and memory."""
    if not isinstance(node, (dict, list)) or not node:
        yield place, repr(node)
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if not str(key).endswith(NOISE):
            yield from leaves(value, f"{place}, {key}")


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Where it stands, and both values, or how far the tensors are apart; empty where all is equal bit for bit."""
    import torch

    for place in dict.fromkeys([*one, *other]):
        pair = one.get(place, "nothing"), other.get(place, "nothing")
        shown = [value if isinstance(value, str) else f"{value.dtype} {tuple(value.shape)}" for value in pair]
        if shown[0] != shown[1]:
            return f"{place}: {shown[0]} | {shown[1]}"
        if not isinstance(pair[0], str) and not torch.equal(*(tensor.flatten().view(torch.uint8) for tensor in pair)):
            return f"{place}: largest difference {(pair[0].double() - pair[1].double()).abs().max().item():g}"
    return ""


def report(runs: list[Run], commits: list[str], results: list[Path]) -> int:
    """Print a line for each run. How many differ or fail."""
    bad = 0
    for run in runs:
        errors = [(commit, failure(folder / run.name)) for commit, folder in zip(commits, results, strict=True)]
        failed = [f"{commit} fails: {error}" for commit, error in errors if error]
        found = "; ".join(failed) or first_difference(*(dict(contents(run.directory(folder))) for folder in results))
        bad += bool(found)
        print(f"{run.experiment:30} {run.engine:6} {run.ranks}  {found or 'equal'}", flush=True)
    print(f"{len(runs)} runs compared, {bad} differ")
    return bad


def compare_commits(given: list[str], only: str | None, jobs: int, keep: Path) -> int:
    """Run what has no results yet, and report. How many runs of the two commits differ or fail."""
    hashes = [name if name == WORKTREE else git("rev-parse", f"{name}^{{commit}}").decode().strip() for name in given]
    keep.mkdir(parents=True, exist_ok=True)
    inputs, results, anew = write_inputs(keep), [], []
    versions = [metadata.version(name) for name in ("torch", "transformers", "tokenizers", "deepspeed", "peft")]
    digest = hashlib.sha256(f"{inputs.name} {versions} {SETTINGS}".encode()).hexdigest()[:12]
    with tempfile.TemporaryDirectory() as temporary:
        sources = [check_out(commit, Path(temporary, str(index))) for index, commit in enumerate(hashes)]
        runs = runs_of(sources[0], only)
        for index, (commit, source) in enumerate(zip(hashes, sources, strict=True)):
            begun, folder = time.monotonic(), keep / f"{commit}-{digest}"
            if commit == WORKTREE or commit in hashes[:index]:
                folder = Path(tempfile.mkdtemp(dir=keep, prefix=f"{commit}-"))
                anew.append(folder)
            folder.mkdir(exist_ok=True)
            results.append(folder)
            with FileLock(folder / ".lock"):
                perform(source, runs, folder, inputs, jobs)
            print(f"{given[index]}: {time.monotonic() - begun:.0f} s, {folder}", flush=True)
    bad = report(runs, given, results)
    for folder in anew if not bad else ():
        shutil.rmtree(folder)
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="two of them, or WORKTREE")
    parser.add_argument("--only", metavar="NAME,...", help="experiments, or runs such as reranker_grpo-zero2-2")
    parser.add_argument("--jobs", type=int, default=2, help="ranks at a time")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "plackett_commits"), metavar="DIR")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve, arguments.jobs)
        return
    if len(arguments.commits) != 2:
        parser.error("name two commits")
    os.environ.update(SETTINGS)
    try:
        bad = compare_commits(arguments.commits, arguments.only, arguments.jobs, arguments.keep.resolve())
    except (ValueError, subprocess.CalledProcessError) as error:
        parser.error(str(error))
    raise SystemExit(int(bad > 0))


if __name__ == "__main__":
    main()
