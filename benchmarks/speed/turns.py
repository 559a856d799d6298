"""Two processes that take turns: each side has one of its own, and works only while the other waits.

A pair of turns lies within seconds, so that what else the machine does meets both sides alike. A process is started,
warmed up and measured once for all turns of a question. The parent writes `go` to a worker's standard input, and reads
its answers, lines of JSON, from its standard output. All else that a worker prints goes to a log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from benchmarks.side_by_side import MATMUL_SIZE, matmul_peaks, now
from benchmarks.speed.setting import Setting
from engines.memory.allocator import peak_memory_bytes

ROOT = Path(__file__).resolve().parents[2]
TEXTS = "texts"  # the side that makes the texts of the others
TINY_MATMUL_SIZE = 128
LOG_LINES = 15  # of a failed worker, that are shown

Answer = dict[str, Any]


class WorkerFailed(RuntimeError):
    """A worker ended with an error; the message has the end of its log."""


class Side:
    """The parent's end: the process of one side."""

    def __init__(self, side: str, setting: Setting, folder: Path) -> None:
        self.log = folder / f"{side}.log"
        command = [sys.executable, "-m", "benchmarks.speed.worker", side, setting.as_json(), str(folder)]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with self.log.open("w") as stream:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True, env=environment
            )

    def answer(self) -> Answer:
        """Wait for the next answer. Raises WorkerFailed if the process ends instead."""
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            answer: Answer = json.loads(line)
            return answer
        status = self._process.wait()
        last = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise WorkerFailed(f"{self.log.stem} ended with status {status} ({self.log}):\n{last}")

    def turn(self) -> Answer:
        """Let the side work for one turn. Returns its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: `answer` says why
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process: its standard input ends, which it takes as the end of its work."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Turns:
    """The worker's end. A loop calls `step_done` after each of its steps, the first steps of which are the warm-up."""

    def __init__(self, setting: Setting, orders: IO[str], answers: IO[str]) -> None:
        self.setting, self._orders, self._answers = setting, orders, answers
        self.steps_done = 0
        self._started = 0.0
        self.losses: list[float] = []  # of all steps
        self.found: Answer = {}  # what the next answer says beside the time

    def step_done(self) -> None:
        """Count a step. At the end of the warm-up and of each turn, answer, and wait until the next turn begins."""
        if self.setting.quality_steps:
            return
        self.steps_done += 1
        timed = self.steps_done - self.setting.warm_up
        if timed < 0 or timed % self.setting.steps:
            return
        self.answer({"seconds": now() - self._started} if timed else {})
        self.wait()
        self._started = now()

    def answer(self, answer: Answer) -> None:
        """Send an answer, with the peaks of the memory so far and of the processor now."""
        peak_memory = peak_memory_bytes() / 2**20  # before the matrices
        peaks = matmul_peaks(TINY_MATMUL_SIZE if self.setting.tiny else MATMUL_SIZE)
        answer |= {"peak_memory_mib": peak_memory, "matmul_peaks": peaks}
        self._answers.write(json.dumps(answer | self.found) + "\n")
        self._answers.flush()
        self.found = {}

    def wait(self) -> None:
        """Wait for the next turn. Raises SystemExit if there is none."""
        if self._orders.readline().strip() != "go":
            raise SystemExit(0)
