"""The static embedder: a table of token vectors; the embedding of a text is the mean of its tokens' vectors.

It reads and writes the folders of sentence-transformers' StaticEmbedding, those made by model2vec among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.cpu.embedding_bag import EmbeddingBag
from models.embedding.options import EmbedderOptions
from models.loading.backbone import skips_weights, without_weights
from models.loading.embedding_modules import Head
from models.loading.folder import STATIC, ModelFolder, first_line
from models.static.start import STARTS, distilled_vectors, start_table, word_embeddings, word_tokens
from models.static.tokens import read_tokenizer, vocabulary_rows, without_own_tokens
from models.static.tower import StaticTokenizer, StaticTower
from models.tokenization import UNLIMITED

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

DIMENSION = 256  # of a start, at most, if no option says it


@dataclass(frozen=True, kw_only=True)
class StaticEmbedderConfig(EmbedderOptions):
    """The options of a static embedder: its folder, or the model that it starts from. `build` makes the model.

    `name_or_path` is a static embedder, or the model that it starts from. Options that are None are read from the
    folder of a static embedder.
    """

    outputs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    start: str | None = None  # distilled, word_embeddings or random; None: distilled, unless it is a static embedder
    dimension: int | None = None  # values of a vector at the start; None: 256, or those of the model if it has fewer
    sif_coefficient: float | None = 1e-4  # frequent tokens weigh less at the start; None: all alike

    def check_values(self) -> None:
        if self.start not in (None, *STARTS):
            raise ValueError(f"model.start={self.start}: choose null, {', '.join(STARTS)}")
        if self.sif_coefficient is not None and self.sif_coefficient <= 0:
            raise ValueError(f"model.sif_coefficient={self.sif_coefficient} must be null or above 0")
        for option in ("dimension", "max_length"):
            if (value := getattr(self, option)) is not None and value < 1:
                raise ValueError(f"model.{option}={value} must be null or at least 1")
        super().check_values()

    def build(self, seed: int) -> BiEncoder:
        """The model in float32 on the CPU, in training mode; what is random is drawn from `seed`, so that it is equal
        on every rank.

        Raises FileNotFoundError or ValueError, in one line, if the model is not found or does not fit the options.
        """
        folder = self.read_folder()
        self.similarity_of(folder)  # raises an error before weights are read
        starts = not folder.is_static or self.start == "random"
        read = self._start if starts else self._read
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            parts = [self._tower(route, *read(route)) for route in folder.routes().values()]
            projection = self.new_teacher_projection(parts[0][0].dimension)
        model = BiEncoder(**self.parts_of_model(folder, parts), teacher_projection=projection)
        if not starts:  # a new table gives other embeddings than those whose ranges the folder holds
            model.int8_ranges = self.saved_int8_ranges(folder, parts[0][2], model.dimension, {})
        return model.train()

    def starting_from(self, folder: Path) -> Self:
        return replace(super().starting_from(folder), start=None, dimension=None)

    def parts_to_train(self) -> Mapping[str, str]:
        return {**super().parts_to_train(), "token vectors": "model=static_embedder"}

    def _tower(
        self, folder: ModelFolder, table: Tensor, tokenizer: PreTrainedTokenizerBase, length: int, head: Head
    ) -> tuple[StaticTower, StaticTokenizer, Head]:
        bag = EmbeddingBag(table.shape[0], table.shape[1], device="meta")
        bag.weight = torch.nn.Parameter(table)
        dense = self.linear_layers(head, table.shape[1], f"model {folder.path}")
        max_length = length if self.max_length is None else self.max_length
        texts = StaticTokenizer(tokenizer, max_length, split_special_tokens=False, **self.texts_of(folder))
        return StaticTower(bag, dense, source=self.name_or_path), texts, head

    def _read(self, folder: ModelFolder) -> tuple[Tensor, PreTrainedTokenizerBase, int, Head]:
        """The table, tokenizer and length of a static embedder, and its modules after the table."""
        if self.start is not None:
            raise ValueError(
                f"model.start={self.start}: {folder.path} is a static embedder, which has its own vectors: leave the "
                "option out, or name the model to start from as model.name_or_path"
            )
        head, table = Head.read(folder, first=(STATIC,)), _read_table(folder)
        tokenizer, length = read_tokenizer(folder.backbone)
        if self.dimension is not None and self.dimension != table.shape[1]:
            raise ValueError(
                f"model.dimension={self.dimension}: the vectors of {folder.path} have {table.shape[1]} values: leave "
                "the option out; loss=matryoshka trains first dimensions"
            )
        if vocabulary_rows(tokenizer) > len(table):
            raise ValueError(
                f"model {folder.path} does not fit its tokenizer: its table has {len(table)} rows for "
                f"{vocabulary_rows(tokenizer)} tokens: copy both again"
            )
        return table, tokenizer, length, head

    def _start(self, folder: ModelFolder) -> tuple[Tensor, PreTrainedTokenizerBase, int, Head]:
        """The table that training starts with, from another model."""
        dimension = self.dimension or DIMENSION
        if folder.is_static:
            tokenizer, _ = read_tokenizer(folder.backbone)
            return _random_table(tokenizer, dimension), tokenizer, UNLIMITED, Head()
        start = self.start or "distilled"
        options = BiEncoderConfig(self.name_or_path, trust_remote_code=self.trust_remote_code)
        with nullcontext() if start == "word_embeddings" else without_weights():
            model = options.build(seed=0)
        own = model.tokenizer.tokenizer
        tokenizer = without_own_tokens(own.backend_tokenizer)
        if start == "random":
            return _random_table(tokenizer, dimension), tokenizer, UNLIMITED, Head()
        vectors = word_embeddings(model) if start == "word_embeddings" else distilled_vectors(options, model)
        if self.dimension is not None and self.dimension > vectors.shape[1]:
            raise ValueError(
                f"model.dimension={self.dimension}: the vectors of {self.name_or_path} have {vectors.shape[1]} values: "
                "give at most so many, or model.start=random"
            )
        table = start_table(vectors, word_tokens(own), min(dimension, vectors.shape[1]), self.sif_coefficient)
        return table, tokenizer, UNLIMITED, Head()


def _random_table(tokenizer: PreTrainedTokenizerBase, dimension: int) -> Tensor:
    return torch.randn(vocabulary_rows(tokenizer), dimension, device="meta" if skips_weights() else None)


def _read_table(folder: ModelFolder) -> Tensor:
    """The table [tokens, dim] float32 of a folder. Raises ValueError if its weights are no table."""
    file = folder.backbone / "model.safetensors"
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: not a complete safetensors file ({first_line(error)}): copy it again") from error
    if "embedding.weight" in state:
        table = state["embedding.weight"].float()
    elif "embeddings" in state:  # of model2vec: rows that several tokens may share, and a weight of each token
        table = state["embeddings"].float()
        table = table[state["mapping"].long()] if "mapping" in state else table
        table = table * state["weights"].float()[:, None] if "weights" in state else table
    else:
        raise ValueError(f"{file} holds no table of token vectors (embedding.weight), but {', '.join(sorted(state))}")
    return table.to("meta") if skips_weights() else table
