"""What both sides of a question are given, and the files of a process that measures one of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import SIDES

OURS, THEIRS = SIDES
DOCSTRINGS, FOLDER, RANDOM = "docstrings", "folder", "random"


@dataclass(frozen=True)
class Setting:
    """The texts, the model and the sizes of a question, the same for both sides. Lengths are in tokens."""

    kind: str  # of benchmarks/speed/kinds.py: contrastive, listwise, encode, rerank, ours
    experiment: str = "embedder_infonce"  # kind contrastive: of benchmarks/speed/peers.py
    data: str = DOCSTRINGS  # docstrings | folder (of BEIR's layout) | random (texts of random words)
    path: str = ""  # of the folder
    tiny: bool = False  # a tiny model with random weights instead of all-MiniLM-L6-v2
    tiny_decoder: bool = False  # a small Qwen3 with random weights
    batch_size: int = 16  # queries of a step
    list_size: int = 2  # documents per query
    max_length: int = 128
    steps: int = 4  # of a turn
    warm_up: int = 3  # steps before the first turn, which are not timed
    turns: int = 5
    seed: int = 42
    token_budget: int | None = None  # cached InfoNCE in chunks of so many tokens; None: the step as it comes
    quality_steps: int | None = None  # train so many steps and measure the model, instead of the time
    evaluate: bool = True  # after these steps
    words: tuple[int, int] = (4, 60)  # of a random document: the fewest, and the mean
    query_words: int = 12  # of a random query
    repeated: float = 0.0  # share of the random negatives that are of a pool of few
    sides: dict[str, tuple[str, ...]] | None = None  # kind ours: the overrides of each side
    compare_gradients: bool = False  # kind ours: of the first step
    overrides: tuple[str, ...] = ()  # further ones, for both sides

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """The setting that `as_json` wrote."""
        values = json.loads(text)
        values |= {name: tuple(values[name]) for name in ("words", "overrides")}
        if values["sides"] is not None:
            values["sides"] = {side: tuple(overrides) for side, overrides in values["sides"].items()}
        return cls(**values)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    def as_dict(self) -> dict[str, Any]:
        """In JSON types, without the number of turns, which may be raised later."""
        values: dict[str, Any] = json.loads(self.as_json())
        del values["turns"]
        return values

    def key(self) -> str:
        """A hash of the setting: of its texts, too."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:12]

    @property
    def num_steps(self) -> int:
        """All steps of a side."""
        return self.quality_steps or self.warm_up + self.turns * self.steps


@dataclass(frozen=True)
class Job:
    """The work of one process: a side of a setting, or the making of its texts."""

    side: str
    setting: Setting
    folder: Path  # of the question: texts and logs
    scratch: Path  # is deleted when the process ends

    @property
    def texts_file(self) -> Path:
        """The file of the texts in batches, with their lengths, which one job makes and the others read."""
        return self.folder / f"texts-{self.setting.key()}.json"

    @property
    def rows_file(self) -> Path:
        """The file of the random rows that a setting may ask for, as `data=file` reads it."""
        return self.texts_file.with_suffix(".jsonl")

    @property
    def model_folder(self) -> Path:
        """The folder of the model that the job of the texts writes, if the setting asks for one."""
        return self.texts_file.with_suffix(".model")

    @property
    def start_folder(self) -> Path:
        """The folder of a model whose last layer is new, from which both sides start."""
        return self.texts_file.with_suffix(".start")

    @cached_property
    def texts(self) -> dict[str, Any]:
        """What `kinds.make_texts` made. "steps" has rows, tokens and operations of each step."""
        texts: dict[str, Any] = json.loads(self.texts_file.read_text())
        return texts
