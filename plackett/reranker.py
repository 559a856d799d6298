"""A trained reranker of any kind: scores of pairs, and rankings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from engines.distributed.process_group import device as own_device
from inference.local import score_pairs
from inference.runner import ModuleRunner
from models.loading.reranker import load_reranker
from plackett.arguments import (
    check_count,
    checked_device,
    checked_pairs,
    checked_text,
    checked_texts,
    names_of_arguments,
)

if TYPE_CHECKING:
    from models.cross_encoder import CrossEncoder
    from models.llm_reranker import LLMReranker


@dataclass(frozen=True)
class RankedDocument:
    """A document of a ranking."""

    index: int  # its place among the documents that were given, from 0
    score: float
    document: str | None  # its text; None with return_documents=False


@dataclass(frozen=True)
class Scores:
    """Scores of pairs."""

    scores: np.ndarray  # [pairs] float32, after the model's activation: those of sentence-transformers
    raw: np.ndarray  # [pairs] float32 logits
    cut: np.ndarray  # [pairs, 2] int32: tokens of query and document that the model did not read, for their length


class Reranker:
    """Scores (query, document) pairs by a cross-encoder or a language model that answers yes or no, in float32.

    A score depends on its query, its document and the instruction alone: it is the same, up to rounding (1e-6 of its
    size), in any batch, and bit by bit in any order of the same pairs. An object may be used by several threads: one
    call runs at a time.
    """

    kind: ClassVar[Literal["reranker"]] = "reranker"

    def __init__(self, model: CrossEncoder | LLMReranker, device: str | torch.device | None = None) -> None:
        self.model = model.to(own_device() if device is None else checked_device(device)).eval()
        self._runner = ModuleRunner(self.model, next(self.model.parameters()).device)
        self._lock = Lock()

    @staticmethod
    def load(
        name_or_path: str | Path,
        *,
        max_length: int | None = None,
        template: str | None = None,
        device: str | torch.device | None = None,
        special_tokens: bool = False,
        trust_remote_code: bool = False,
    ) -> Reranker:
        """Load the reranker of a folder or hub id. The options are those of `plackett.load`.

        Raises FileNotFoundError or ValueError, in one line, if it is not found or is no reranker.
        """
        model = load_reranker(str(name_or_path), max_length, template, trust_remote_code=trust_remote_code)
        if special_tokens:
            model.tokenizer = replace(model.tokenizer, split_special_tokens=False)
        return Reranker(model, device)

    @property
    def max_length(self) -> int:
        """The most tokens of a pair that are read, prompts included."""
        return self.model.tokenizer.max_length

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        return_documents: bool = True,
        instruction: str | None = None,
        batch_size: int | None = None,
        raw: bool = False,
    ) -> list[RankedDocument]:
        """Rank documents for a query, best first: the best `top_k`, or all.

        They are in the order of their raw scores, since an activation such as the sigmoid makes ties; documents of
        equal raw score (equal texts have one) keep the order in which they were given. `instruction` replaces the
        model's own. `batch_size`: see `predict`. `raw`: give the logits.

        Raises ValueError if an argument is not valid.
        """
        check_count("top_k", top_k)
        documents = checked_texts("documents", documents)
        query = checked_text("query", query)
        found = self.score([(query, text) for text in documents], instruction=instruction, batch_size=batch_size)
        shown = found.raw if raw else found.scores
        order = np.argsort(-found.raw, kind="stable")[:top_k].tolist()
        return [
            RankedDocument(index, float(shown[index]), documents[index] if return_documents else None)
            for index in order
        ]

    def predict(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        instruction: str | None = None,
        batch_size: int | None = None,
        raw: bool = False,
    ) -> np.ndarray:
        """Compute the score of each (query, document) pair, [pairs] float32: what sentence-transformers' `predict`
        gives, or the logits if `raw`.

        `batch_size`: the most pairs of a forward pass. None: as many as fit into 1,024 tokens on a CPU, 8,192 on a GPU,
        and a language model reads the common beginning of a query's prompts once. Pairs of similar length share a
        batch.
        """
        found = self.score(pairs, instruction=instruction, batch_size=batch_size)
        return found.raw if raw else found.scores

    def score(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        instruction: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Scores:
        """Compute all that is known of the score of each pair. The options are those of `predict`; `show_progress`:
        show a bar, or lines in a log, if it takes long."""
        check_count("batch_size", batch_size)
        given = checked_pairs(pairs)
        tokenizer = self.model.tokenizer
        if instruction is not None:
            with names_of_arguments():
                tokenizer = tokenizer.expecting([checked_text("instruction", instruction)])
        with self._lock, torch.no_grad(), names_of_arguments():
            raw, cut = score_pairs(self._runner, tokenizer, given, instruction, batch_size, progress=show_progress)
            scores = self.model.activation(raw)
        return Scores(scores.numpy(), raw.numpy(), cut)
