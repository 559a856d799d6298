"""Kill runs at random moments, resume them, and compare them with an uninterrupted run.

    python tests/crash_test.py --engines torch zero1 zero2 zero3 --kills 20

Two ranks run under torchrun's agent on the CPU, with a tiny model. A kill is a SIGKILL to all processes of a launch, or
to one rank. It comes at a random time, or just after a rank has started to write a checkpoint. After each kill every
visible checkpoint must be intact, and the same command resumes. The metrics, summary and export of a finished run must
equal those of the uninterrupted run bit for bit. Then the next run starts.

Runs alternate between GRPO (two updates per batch, so that some kills fall between them), a mixture of data sets with
dropout, and three stages. --kinds has three more: an embedder whose negatives are refreshed ("refreshed", no text twice
in a batch), GRPO whose candidates are refreshed and whose solved lists are replaced ("solved"), and GRPO in fp16 for an
epoch that evaluations on dev may end ("early"). They use a data worker per rank, several chunks per step, and
`trainer.async_save` in every second launch. The exit status is 1 if anything differs.

Launches are forked from this process, which has already imported everything, so they start within a second.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from engines.checkpoint.manifest import first_problem, sha256
from engines.deepspeed.options import import_deepspeed
from launch.cli.entry import run
from launch.train import main as train

STEPS = 12
HANG_S = 120.0
FINISHED = "this rank is finished"  # printed to the log by each rank
TIMED = {"seconds", "rows_per_s", "tokens_per_s", "peak_memory_bytes"}


def options(folder: Path) -> dict[str, list[str]]:
    """The command-line settings of each kind of run."""
    trainer = ["save_every=1", "eval_every=4", "learning_rate=0.01", "token_budget=160", "kept_chunks=1", "workers=1"]
    common = [
        "model.max_length=48",
        f"model.name_or_path={folder / 'bert'}",
        "logger=none",
        f"output_dir={folder / 'outputs'}",
    ]
    one = [*common, f"trainer.max_steps={STEPS}", *(f"trainer.{option}" for option in trainer)]
    beir = [f"path={folder / 'beir'}", f"cache_dir={folder / 'cache'}"]
    grpo = ["+exp=reranker_grpo", "trainer.num_iterations=2", "loss.beta=0.1", "data=beir", "data.candidates.depth=12"]
    mixture = ["model=bi_encoder", "loss=info_nce", "trainer=contrastive", "eval=retrieval", "data=mixture"]
    mixture += ["+data@data.sources.facts=beir", "+data@data.sources.pairs=file", "data.weights={facts: 1, pairs: 1}"]
    mixture += [f"data.sources.pairs.path={folder / 'pairs.jsonl'}", f"data.sources.pairs.cache_dir={folder / 'cache'}"]
    stages = ["+exp=reranker_three_stage", "data=beir", "data.candidates.depth=12", *common]
    for stage in ("grpo", "contrastive", "preference"):
        stages += [f"stage.{stage}.trainer.{option}" for option in ("max_steps=4", "batch_size=3", *trainer)]
    refresh = ["trainer.refresh_every=4", "data.lists.hard_depth=4"]
    refreshed = ["+exp=embedder_infonce", "data=beir", "data.candidates.depth=12", "trainer.list_size=3", *refresh]
    solved = [*grpo, *refresh, "loss.temperature=0.02", "loss.num_generations=4", "trainer.reference=frozen"]
    early = [
        *grpo,
        *common,
        *(f"trainer.{option}" for option in trainer),
        "trainer.max_epochs=1",
        "trainer.eval_every=2",
    ]
    early += ["trainer.early_stopping_patience=2", "engine.precision=fp16", "trainer.batch_size=3", "eval.depth=8"]
    return {
        "early": [*early, *(f"data.{key}" for key in beir)],
        "refreshed": [*refreshed, *(f"data.{key}" for key in beir), *one, "trainer.batch_size=5"],
        "solved": [*solved, *(f"data.{key}" for key in beir), *one, "trainer.batch_size=3", "eval.depth=8"],
        "grpo": [*grpo, *(f"data.{key}" for key in beir), *one, "trainer.batch_size=3", "eval.depth=8"],
        "mixture": [*mixture, *(f"data.sources.facts.{key}" for key in beir), *one, "trainer.batch_size=6"],
        "stages": [*stages, *(f"data.{key}" for key in beir), "eval.depth=8"],
    }


def write_inputs(folder: Path) -> None:
    """Write the model and the data of all runs."""
    helper("tiny_models").write_tiny_bert(folder / "bert")
    (folder / "beir").mkdir()
    helper("tiny_collection").write_tiny_collection(folder / "beir")
    pairs = [{"query": f"red q{i} pear", "positive": f"document p{i} of blue {i * 7 % 10} trains"} for i in range(30)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def helper(name: str) -> Any:
    """Load a module of this folder, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(overrides: list[str], log: Path, ranks: int = 2) -> int:
    """Do the same as `torchrun --nproc_per_node RANKS launch/train.py OVERRIDES`. Returns the process group's id."""
    if process := os.fork():
        return process
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=log.stem,
        max_restarts=0,
        start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=str(log.with_suffix(""))),
    )
    try:
        elastic_launch(config, run_rank)(overrides)
    except BaseException as error:
        print(f"launch failed: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def run_rank(overrides: list[str]) -> None:
    """Train on one rank."""
    sys.argv = ["launch/train.py", *overrides]
    run(train)
    print(FINISHED, flush=True)


def ended(process: int, within_s: float) -> bool:
    """Whether the launch ends by itself within that time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if os.waitpid(process, os.WNOHANG)[0]:
            return True
        time.sleep(0.001)
    return False


@dataclass
class CrashTest:
    """The kills of one engine's runs, and their results."""

    engine: str
    kinds: list[str]  # keys of `options`
    folder: Path
    random: random.Random
    kills: int = 0
    kills_while_saving: int = 0
    kills_of_one_rank: int = 0
    runs: int = 0
    launches: int = 0
    problems: list[str] = field(default_factory=list)

    def perform(self, num_kills: int) -> None:
        """Kill and resume runs until they finish and `num_kills` is reached. The last run finishes without a kill."""
        expected, seconds = {}, {}
        for kind in self.kinds:
            started_at = time.monotonic()
            self._launch(kind, "uninterrupted", finish=True)
            expected[kind] = self._results(f"{self.engine}-{kind}-uninterrupted")
            seconds[kind] = time.monotonic() - started_at
        while (self.kills < num_kills or self.runs < len(expected)) and not self.problems:
            kind = self.kinds[self.runs % len(self.kinds)]
            name = f"killed-{self.runs}"
            while self.kills < num_kills and not self._launch(kind, name, kill_within_s=seconds[kind]):
                pass
            self._launch(kind, name, finish=True)
            if self._results(f"{self.engine}-{kind}-{name}") != expected[kind]:
                self.problems.append(f"{self.engine}-{kind}-{name} differs from the uninterrupted run")
            self.runs += 1

    def _launch(self, kind: str, name: str, *, kill_within_s: float = 0.0, finish: bool = False) -> bool:
        """Start one launch and kill it, unless `finish` is set. Returns whether it finished before the kill."""
        self.launches += 1
        run_name = f"{self.engine}-{kind}-{name}"
        asynchronous = str(bool(self.launches % 2)).lower()
        overrides = [*options(self.folder)[kind], f"engine={self.engine}", f"run_name={run_name}"]
        saving = ["stage.grpo.trainer", "stage.preference.trainer"] if kind == "stages" else ["trainer"]
        overrides += [f"{trainer}.async_save={asynchronous}" for trainer in saving]
        log = self.folder / "logs" / f"{run_name}-{self.launches}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()  # a kill may come before the process has opened it
        process = start(overrides, log)
        directory = self.folder / "outputs" / run_name
        finished = ended(process, HANG_S) if finish else self._kill(process, directory, log, kill_within_s)
        if finish and not finished:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            self.problems.append(f"{run_name} hangs: {log}")
        if finish and not (directory / "summary.json").is_file():
            self.problems.append(f"{run_name} did not finish: {log}")
        self._check(directory, log)
        return finished

    def _kill(self, process: int, directory: Path, log: Path, within_s: float) -> bool:
        """Kill the launch at a random moment, or just after a save has started. Returns whether it ended before."""
        saves = self.random.choice([None, self.random.randrange(4)])
        finished = ended(process, self.random.uniform(0, within_s)) if saves is None else False
        seen: set[str] = set()
        deadline = time.monotonic() + HANG_S
        while saves is not None and not finished and len(seen) <= saves and time.monotonic() < deadline:
            seen |= unfinished(directory)
            finished = ended(process, 0.002)
        if finished or (saves is not None and ended(process, self.random.uniform(0, 0.02))):
            return True
        if time.monotonic() >= deadline:
            self.problems.append(f"{directory.name} hangs before its save {saves}: {log}")
        ranks = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        if self.random.random() < 0.25 and len(ranks) == 2:
            os.kill(int(self.random.choice(ranks)), signal.SIGKILL)
            self.kills_of_one_rank += 1
            if not ended(process, HANG_S):
                # Unlike torchrun with scripts, torch's agent for functions waits forever for a rank that was killed
                # while it acknowledged the end of all ranks (`multiprocessing.Event.set`).
                if log.read_text().count(FINISHED) < 2:
                    self.problems.append(f"{directory.name}: the other rank hangs: {log}")
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
        else:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
        self.kills += 1
        self.kills_while_saving += bool(unfinished(directory))
        return False

    def _check(self, directory: Path, log: Path) -> None:
        for checkpoint in (*directory.glob("checkpoints/step-*"), *directory.glob("stages/*/checkpoints/step-*")):
            if checkpoint.suffix == ".broken" or first_problem(checkpoint):
                self.problems.append(f"{checkpoint} is broken: {first_problem(checkpoint)}")
        if "is broken" in log.read_text():
            self.problems.append(f"the run found a broken checkpoint: {log}")

    def _results(self, run_name: str) -> dict[str, Any]:
        """Everything that kills must not change: the metrics of every step, the summary, the exported weights."""
        directory = self.folder / "outputs" / run_name
        try:
            lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
            summary = json.loads((directory / "summary.json").read_text())
            export = {file.name: sha256(file) for file in sorted((directory / "model").glob("*.safetensors"))}
        except OSError as error:
            return {"missing": str(error), "of": run_name}
        summary = {name: value for name, value in summary.items() if name not in {*TIMED, "stages"}}
        return {"lines": [without_times(line) for line in lines], "summary": summary, "export": export}


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    """The line of metrics.jsonl without measured times, memory and traffic."""
    return {name: value for name, value in line.items() if name not in TIMED and not name.startswith("traffic/")}


def unfinished(directory: Path) -> set[str]:
    """The checkpoints that are being written."""
    try:
        folders = (*directory.glob("checkpoints/.tmp-step-*"), *directory.glob("stages/*/checkpoints/.tmp-step-*"))
    except FileNotFoundError:  # a run with stages is replacing its folder of checkpoints
        return set()
    return {str(folder.relative_to(directory)) for folder in folders}


def preload() -> None:
    """Import once what all launches need."""
    import_deepspeed()
    for name in (*helper("preloaded").MODULES, "matplotlib.pyplot", "transformers.models.bert.modeling_bert"):
        importlib.import_module(name)


def perform(arguments: argparse.Namespace, folder: Path) -> Iterator[CrashTest]:
    """Test each engine and print a line about it."""
    write_inputs(folder)
    (folder / "logs").mkdir()
    for engine in arguments.engines:
        started_at = time.monotonic()
        test = CrashTest(engine, arguments.kinds, folder, random.Random(f"{arguments.seed} {engine}"))
        test.perform(arguments.kills)
        seconds = time.monotonic() - started_at
        print(
            f"{engine}: {test.kills} kills ({test.kills_while_saving} while a checkpoint was being written, "
            f"{test.kills_of_one_rank} of one rank) in {test.runs} runs and {test.launches} launches, {seconds:.0f} s: "
            f"{'; '.join(test.problems) or 'every run identical to the uninterrupted one, no checkpoint broken'}",
            flush=True,
        )
        yield test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["torch", "zero1", "zero2", "zero3"])
    parser.add_argument("--kinds", nargs="+", default=["grpo", "mixture", "stages"], help="the kinds of run")
    parser.add_argument("--kills", type=int, default=20, help="per engine")
    parser.add_argument("--seed", default=hashlib.sha256(os.urandom(8)).hexdigest()[:8], help="of the random moments")
    parser.add_argument("--folder", type=Path, help="a folder to keep runs and logs in (default: a temporary folder)")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    preload()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if any([test.problems for test in perform(arguments, folder)]):  # noqa: C419 (all engines are tested)
            raise SystemExit(1)


if __name__ == "__main__":
    main()
