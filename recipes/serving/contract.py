"""What a backend of `launch/verify.py` is given and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from inference.golden import Golden
from models.loading.folder import ModelFolder
from models.prompts.template_folder import has_template

KINDS = ("", "SentenceTransformer", "CrossEncoder")  # classes of sentence-transformers that every backend reads


class Unavailable(Exception):
    """A backend that cannot be asked: not installed, no such file, or no support for this kind of model."""


@dataclass(frozen=True)
class Export:
    """An exported folder with its golden texts."""

    path: Path
    golden: Golden
    tei: str = ""  # address of a text-embeddings-inference server that serves it

    @cached_property
    def folder(self) -> ModelFolder:
        return ModelFolder.read(self.path)

    @property
    def kind(self) -> str:
        """The class of sentence-transformers that the folder names; empty: none."""
        return self.folder.kind

    @cached_property
    def is_prompted(self) -> bool:
        """Whether it is an LLM reranker, which reads pairs through a chat template."""
        return self.golden.layout == "pairs" and has_template(self.folder)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The golden (query, document) pairs, with the prompts that other libraries do not put before documents."""
        before = self.golden.prompts["document"]
        return [(row.texts[0], before * (not self.is_prompted) + row.texts[1]) for row in self.golden.rows]

    @property
    def prompted_pairs(self) -> list[tuple[str, str]]:
        """The same for a library that puts no prompt before queries either."""
        before = self.golden.prompts["query"] * (not self.is_prompted)
        return [(before + query, document) for query, document in self.pairs]


@dataclass(frozen=True)
class Replay:
    """What a backend gives for the golden rows: [rows] scores or [rows, any] embeddings, float32, or ragged ones.

    `through`: what scores have gone through: nothing, the model's own activation, or a sigmoid. `limits`: why it is
    known to differ on rows that are "truncated" or spell "control_tokens"; such rows are told apart. `informs`: a
    difference is told and no fault, as with weights of 8 bits.
    """

    values: Any
    through: Literal["nothing", "own", "sigmoid"] = "nothing"
    limits: Mapping[str, str] = field(default_factory=dict)
    informs: str = ""


# Replays the golden rows; several replays have names ("model_qint8_avx2.onnx"), a single one is "".
Backend = Callable[[Export], Mapping[str, Replay]]

READS_CONTROL_TOKENS = {"control_tokens": "reads the control tokens that texts spell in another way"}
CUTS_NOTHING = {"truncated": "shortens no document to the model's length"}
