"""The tower of a static embedder: a table of token vectors, whose mean embeds a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safetensors.torch import save_file
from torch import Tensor

from models.capabilities import Part
from models.cpu.embedding_bag import EmbeddingBag
from models.export.folder import full_state_dict
from models.static.tokens import write_tokenizer
from models.tokenization import TextTokenizer
from models.towers import Dense, TextTower

NO_TOKEN = -1  # in the place of a token: padding, and the only one of a text without tokens


@dataclass(frozen=True)
class StaticTokenizer(TextTokenizer):
    """Tokenises single texts to rows whose padding is no token of the table: a text may spell every token of it."""

    @property
    def padding(self) -> dict[str, int]:
        return {"input_ids": NO_TOKEN, "attention_mask": 0}


class StaticTower(TextTower):
    """Embeds by the mean of the vectors of a text's tokens: zeros for a text without tokens."""

    outputs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    embedding: EmbeddingBag

    def __init__(self, table: EmbeddingBag, dense: list[Dense], *, source: str) -> None:
        super().__init__("embedding", table, dense, modes=["mean"], source=source)

    @property
    def width(self) -> int:
        return self.embedding.embedding_dim

    def pooled(self, features: dict[str, Tensor], *, layers: bool) -> list[Tensor]:
        ids = features["input_ids"]
        read = ((ids != NO_TOKEN) & (features["attention_mask"] != 0)).to(self.embedding.weight.dtype)
        shares = read / read.sum(1, keepdim=True).clamp(min=1)
        return [self.embedding(ids.clamp(min=0), shares).float()]

    def first_parts(self, role: str) -> list[Part]:
        return [Part("token vectors", tuple(self.embedding.parameters()), role)]

    def write(
        self, folder: Path, prefix: str, tokenizer: TextTokenizer, *, adapter_only: bool
    ) -> list[tuple[str, str]]:
        if adapter_only:
            raise ValueError("adapter_only: a table of token vectors has no adapter")
        path = f"{prefix}0_StaticEmbedding" if prefix else ""
        (folder / path).mkdir(exist_ok=True)
        save_file(
            {f"embedding.{name}": value for name, value in full_state_dict(self.embedding).items()},
            folder / path / "model.safetensors",
        )
        write_tokenizer(tokenizer.tokenizer, tokenizer.max_length, folder / path)
        return [(path, "StaticEmbedding")]
