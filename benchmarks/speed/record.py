"""The JSON file of what was measured: a finished pair is kept, so that the same command goes on from there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.questions import Question
from runs.environment import describe_environment

COMPARED = ("code_hash", "versions", "hardware", "threads")  # of the environment, equal for all pairs of a question


class OtherConditions(ValueError):
    """The file has pairs of a question that were measured under other conditions."""


def environment() -> dict[str, Any]:
    """The machine, the versions, the commit and the command of this process, in JSON types. Of absolute paths the
    command has the names alone: the file may be published."""
    described = describe_environment(1)
    described.pop("launch")
    words = described["command"].split(" ")
    described["command"] = " ".join(Path(word).name if word.startswith("/") else word for word in words)
    return described | {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}


class Record:
    """The content of the file: for each question its setting, environment, pairs and checks."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.questions: dict[str, dict[str, Any]] = {}
        if file.is_file():
            try:
                self.questions = json.loads(file.read_text())["questions"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file} is no file of benchmarks/run.py: choose another --output") from error

    def open(self, question: Question, now: dict[str, Any], *, again: bool) -> dict[str, Any]:
        """The entry of a question, to which pairs are added; a new one with `again`. Raises OtherConditions if it has
        pairs with another setting or environment than that of `now`."""
        setting = question.setting.as_dict()
        known = self.questions.get(question.name, {})
        if known.get("pairs") and not again:
            differing = [name for name in COMPARED if known["environment"][name] != now[name]]
            differing += ["setting"] * (known["setting"] != setting)
            if differing:
                raise OtherConditions(
                    f"{self.file}: {question.name} was measured with another {' and '.join(differing)}: "
                    "--again measures it anew, --output FILE begins another file"
                )
            known.pop("skipped", None)
            return known
        fresh = {"title": question.title, "setting": setting, "environment": now, "pairs": []}
        self.questions[question.name] = fresh
        return fresh

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.part")
        part.write_text(json.dumps({"questions": self.questions}, indent=1) + "\n")
        part.replace(self.file)
