"""Measure a question: both sides in turn, pair after pair."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed.checks import Pair, difference_of_values
from benchmarks.speed.ours import gradient_difference, gradient_file
from benchmarks.speed.questions import Question
from benchmarks.speed.setting import Job, Setting
from benchmarks.speed.turns import TEXTS, Answer, Side

Say = Callable[[str], None]


class NoEffect(RuntimeError):
    """The option in which two sides differ has no effect, so there is nothing to measure."""


def measure(
    question: Question, entry: dict[str, Any], wanted: int, folder: Path, save: Callable[[], None], say: Say
) -> None:
    """Add pairs to the entry of a question until there are as many as wanted. Raises WorkerFailed or NoEffect.

    `folder` is for texts, models and logs; if there are no pairs yet, what lies there is of other code, and deleted.
    """
    setting = replace(question.setting, turns=wanted)
    pairs: list[Pair] = entry["pairs"]
    if not pairs:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if len(pairs) < wanted and not setting.quality_steps:
        _measure_turns(question, setting, pairs, folder, save, say)
    while len(pairs) < wanted:
        pairs.append(_pair_of_seed(question, replace(setting, seed=setting.seed + len(pairs)), folder))
        say(f"pair {len(pairs)} of {wanted}: {_shown(pairs[-1])}")
        save()
    entry["checks"] = [check.result(pairs) for check in question.checks]
    save()


def _measure_turns(
    question: Question, setting: Setting, pairs: list[Pair], folder: Path, save: Callable[[], None], say: Say
) -> None:
    """Start both sides, and let them work in turn. The side that begins alternates, too."""
    work = texts_of(setting, folder)["steps"]
    first = setting.warm_up
    with contextlib.ExitStack() as stack:
        sides = {side: stack.enter_context(Side(side, setting, folder)) for side in question.sides}
        ready = {side: process.answer() for side, process in sides.items()}
        if question.differs and len({answer[question.differs] for answer in ready.values()}) == 1:
            raise NoEffect(f"{question.differs} is the same on both sides: the option has no effect here")
        both = _first_gradients(setting, folder, list(sides))
        while len(pairs) < setting.turns:
            order = list(sides)[:: -1 if len(pairs) % 2 else 1]
            load = os.getloadavg()[0]
            answers = {side: sides[side].turn() for side in order}
            steps = work[first : first + setting.steps]
            first += setting.steps
            pair: Pair = {side: figures(answers[side], steps) for side in sides}
            pairs.append(pair | {"both": both | _difference(answers) | {"load": load}})
            say(f"pair {len(pairs)} of {setting.turns}: {_shown(pair)}")
            save()


def texts_of(setting: Setting, folder: Path) -> dict[str, Any]:
    """The texts of a setting, which a process of its own makes if they are not there."""
    job = Job(TEXTS, setting, folder, folder)
    if not job.texts_file.is_file():
        with Side(TEXTS, setting, folder) as process:
            process.answer()
    return job.texts


def figures(answer: Answer, steps: list[dict[str, float]]) -> dict[str, Any]:
    """The figures of a turn: what the process measured, by the work of its steps. Tokens and operations are those of
    the texts, without padding and before anything is merged."""
    rows, tokens, flops = (sum(step[name] for step in steps) for name in ("rows", "tokens", "flops"))
    seconds = answer["seconds"]
    found = {
        "seconds": seconds,
        "rows_per_s": rows / seconds,
        "tokens_per_s": tokens / seconds,
        "share_of_peak": flops / seconds / max(answer["matmul_peaks"].values()),
        "share_of_torch_peak": flops / seconds / answer["matmul_peaks"]["torch"],
        "matmul_peaks": answer["matmul_peaks"],
        "peak_memory_mib": answer["peak_memory_mib"],
    }
    repeated = sum(step.get("repeated_share", 0.0) * step["flops"] for step in steps) / flops
    return found | ({"repeated_share": repeated} if repeated else {})


def _pair_of_seed(question: Question, setting: Setting, folder: Path) -> Pair:
    """Train both sides on the texts of a seed, one after the other, and measure what they learned."""
    texts_of(setting, folder)
    pair: Pair = {}
    for side in question.sides:
        with Side(side, setting, folder) as process:
            pair[side] = process.answer()
    return pair


def _first_gradients(setting: Setting, folder: Path, sides: list[str]) -> dict[str, float]:
    if not setting.compare_gradients:
        return {}
    difference = gradient_difference(folder, sides)
    for side in sides:
        gradient_file(folder, side).unlink()
    return {"gradient": difference}


def _difference(answers: dict[str, Answer]) -> dict[str, float]:
    """The difference of what the sides computed, if they say it."""
    values = [answer["values"] for answer in answers.values() if "values" in answer]
    return {"difference": difference_of_values(*values)} if len(values) == 2 else {}


def _shown(pair: Pair) -> str:
    names = ("seconds", "nDCG@10")
    shown = []
    for side, found in pair.items():
        value = next((f"{found[name]:.4g}{' s' * (name == 'seconds')}" for name in names if name in found), "done")
        shown.append(f"{side} {value}")
    return ", ".join(shown)
