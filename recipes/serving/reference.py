"""The export as plackett loads it, and what it gives under a known deviation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from data.batch import TokenSequences
from inference.golden import TOKEN_BUDGET, kept_values
from inference.runner import ModuleRunner, row_collator
from inference.score import score_sequences
from models.loading.embedder import load_embedder
from models.loading.reranker import load_reranker
from recipes.serving.contract import Export

Rows = Mapping[str, list[list[int]]]  # a tokenizer's unpadded output


@dataclass(frozen=True)
class Reference:
    """A loaded export. `tokenizer` may be another than the model's own."""

    export: Export
    model: Any  # a models.capabilities.RankingModel
    tokenizer: Any

    @classmethod
    def load(cls, export: Export) -> Reference:
        """Load the folder. Raises ValueError, in one line, if that does not hold a model of the golden rows' kind."""
        path = str(export.path)
        model: Any = load_reranker(path) if export.golden.layout == "pairs" else load_embedder(path)
        return cls(export, model, model.tokenizer)

    @property
    def pairs(self) -> bool:
        return self.export.golden.layout == "pairs"

    def rows(self, prompts: Mapping[str, str] | None = None) -> Rows:
        """Tokenise the golden texts. `prompts` by role replace the model's own."""
        parts = []
        for row in self.export.golden.rows:
            if self.pairs:
                own = {f"{role}_prompt": prompt for role, prompt in (prompts or {}).items()}
                parts.append(self.tokenizer([row.texts[0]], [row.texts[1]], **own))
            else:
                prompt = None if prompts is None else prompts[row.role]
                parts.append(self.tokenizer([row.texts[0]], row.role, prompt))
        return {name: [part[name][0] for part in parts] for name in parts[0]}

    def with_tokenizer(self, **changes: Any) -> Reference:
        """The same with other options of its tokenizer."""
        return replace(self, tokenizer=replace(self.tokenizer, **changes))

    @contextmanager
    def changed(self, attributes: Mapping[str, Any]) -> Iterator[None]:
        """Let the model have these attributes meanwhile."""
        before = {name: getattr(self.model, name) for name in attributes}
        try:
            for name, value in attributes.items():
                setattr(self.model, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self.model, name, value)

    def values(self, rows: Rows) -> Tensor:
        """[rows] raw scores or [rows, kept values] of embeddings, float32."""
        output = self.outputs(rows)
        return output if self.pairs else kept_values(output)[:, : len(self.export.golden.rows[0].values)]

    def outputs(self, rows: Rows) -> Any:
        """[rows] raw scores or [rows, dimensions] embeddings, float32, or ragged ones."""
        sequences = TokenSequences.from_encoding(rows)
        collator = row_collator(self.model, self.tokenizer.padding, TOKEN_BUDGET)
        name = "score" if self.pairs else "embedding"
        return score_sequences(ModuleRunner(self.model, torch.device("cpu")), sequences, collator, name)
