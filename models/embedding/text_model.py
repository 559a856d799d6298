"""The base of models that represent one text at a time: prompts by role, the factor and the bias of similarities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from models.capabilities import Part, RankingModel
from models.prompts.run_prompts import RunPrompts
from models.scale import Scale
from models.tokenization import TextTokenizer


class TextModel(RankingModel):
    """A model of single texts. Losses read 1 / temperature times the similarity plus a bias if `scale` has them."""

    tokenizer: TextTokenizer
    scale: Scale | None

    @abstractmethod
    def text_parts(self) -> Sequence[Part]:
        """The parts that represent a text; one without weights is left out."""

    def parts(self) -> Sequence[Part]:
        learned = {} if self.scale is None else self.scale.learned()
        parts = [*self.text_parts(), *(Part(name, (value,)) for name, value in learned.items())]
        return [part for part in parts if part.parameters]

    def expect_prompts(self, prompts: Iterable[str | None]) -> None:
        self.tokenizer = self.tokenizer.expecting(prompts)

    def adopt_prompts(self, prompts: RunPrompts) -> None:
        self.tokenizer = self.tokenizer.adopting(prompts)

    def scaled(self, output: Mapping[str, Any], rows: int, device: torch.device) -> dict[str, Any]:
        """The output with "scale" and "bias" [rows], those that the model has, the same value in every row."""
        return {**output, **({} if self.scale is None else self.scale(rows, device))}
