"""Write texts about documents and queries by a language model: prompts, batches of like length, random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.hashing import stable_hash
from data.progress import show_progress
from models.generation.generator import Generator, Written
from models.generation.sampling import SamplingOptions


@dataclass(frozen=True)
class Request:
    """What texts are written about: the texts of the slots of prompts, by the name of the slot. `name`: an id of its
    own, by which the random numbers are drawn."""

    name: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Texts:
    """What was written for a request: the texts by kind. `was_cut`: a text was too long for a prompt."""

    by_kind: Mapping[str, Sequence[Written]]
    was_cut: bool


@dataclass(frozen=True)
class Writer:
    """Writes `num_texts` texts of each kind for requests. `prompts` are templates with slots, by kind."""

    generator: Generator
    prompts: Mapping[str, str]
    num_texts: int
    max_new_tokens: int
    options: SamplingOptions
    seed: int
    bf16: bool

    def write(self, requests: Sequence[Request]) -> list[Texts]:
        """The texts of the requests, in their order. Prompts of like length are written together, in batches that
        depend on the requests alone: the same requests give the same texts on any rank."""
        rows = [
            (index, kind, number)
            for index in range(len(requests))
            for kind in self.prompts
            for number in range(self.num_texts)
        ]
        read = self.generator.tokenizer.read
        filled = {
            (index, kind): read(prompt, request.texts)
            for index, request in enumerate(requests)
            for kind, prompt in self.prompts.items()
        }
        rows.sort(key=lambda row: -len(filled[row[:2]].ids))  # stable: the longest first
        written: dict[tuple[int, str, int], Written] = {}
        starts = range(0, len(rows), self.options.batch_size)
        for start in show_progress(starts, "generating", len(starts)):
            batch = rows[start : start + self.options.batch_size]
            keys = [(requests[index].name, kind, number) for index, kind, number in batch]
            numbers = torch.from_numpy(np.stack([self._numbers(*key) for key in keys]))
            prompts = [filled[row[:2]].ids for row in batch]
            texts = self.generator.write(prompts, numbers, self.options, bf16=self.bf16)
            written |= dict(zip(batch, texts, strict=True))
        return [
            Texts(
                {kind: [written[index, kind, number] for number in range(self.num_texts)] for kind in self.prompts},
                any(filled[index, kind].was_cut for kind in self.prompts),
            )
            for index in range(len(requests))
        ]

    def _numbers(self, name: str, kind: str, number: int) -> np.ndarray:
        """The uniform random numbers of a text, float32 [max_new_tokens]."""
        key = stable_hash("writing", self.seed, kind, name, number)
        return np.random.Generator(np.random.Philox(key=key)).random(self.max_new_tokens, dtype=np.float32)
