"""Options that all models with one embedding per text have: similarity, prompts, scale, linear layers, two towers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from models.embedding.text_options import TextOptions
from models.int8_ranges import Int8Ranges
from models.loading.embedding_modules import Head
from models.loading.folder import OF_KIND, ModelFolder
from models.tokenization import TextTokenizer
from models.towers import Dense, SeparateTowers, TextTower

SIMILARITIES = ("cosine", "dot")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmbedderOptions(TextOptions):
    """Options of a model that gives one embedding per text."""

    similarity: str | None = None  # cosine (embeddings have unit length) or dot; None: the folder's, else cosine
    normalize: bool | None = None  # unit length; None: under cosine, and if the folder says so
    projection: int | None = None  # dimension of a linear layer before the embedding
    separate_towers: bool = False  # a tower for queries and one for documents; a folder of two always has them
    teacher_projection: int | None = None  # dimension of a teacher: a linear layer to it, for distillation alone

    def check_values(self) -> None:
        if self.similarity not in (None, *SIMILARITIES):
            raise ValueError(f"model.similarity={self.similarity}: choose null, {', '.join(SIMILARITIES)}")
        for option in ("projection", "teacher_projection"):
            dimension = getattr(self, option)
            if dimension is not None and dimension < 1:
                raise ValueError(f"model.{option}={dimension} must be null or a dimension of at least 1")
        super().check_values()

    def read_folder(self) -> ModelFolder:
        folder = super().read_folder()
        if folder.kind not in ("SentenceTransformer", ""):
            known = OF_KIND.get(folder.kind)
            remedy = f": choose model={known}" if known else ", not an embedding model"
            raise ValueError(f"model {folder.path} is a {folder.kind}{remedy}")
        return folder

    def parts_to_train(self) -> Mapping[str, str]:
        asked = dict(super().parts_to_train())
        if self.projection is not None:
            asked["projection"] = f"model.projection={self.projection}"
        if self.teacher_projection is not None:
            asked["teacher projection"] = f"model.teacher_projection={self.teacher_projection}"
        return asked

    def new_teacher_projection(self, dimension: int) -> Dense | None:
        """A new linear layer from embeddings of that dimension to a teacher's, if one is asked for."""
        if self.teacher_projection is None:
            return None
        return Dense(nn.Linear(dimension, self.teacher_projection, bias=False), nn.Identity())

    def linear_layers(self, head: Head, dim: int, why_dim: str) -> list[Dense]:
        """Load the folder's linear layers after vectors of `dim` values; `why_dim` is the setting that gives so many.
        With `projection` the last must have that size; a new one is made if there is none."""
        layers = [Dense.load(path) for path in head.dense]
        sizes = [(layer.linear.in_features, layer.linear.out_features) for layer in layers]
        if layers and sizes[0][0] != dim:
            raise ValueError(f"{why_dim} gives {dim} values, and {head.dense[0]} reads {sizes[0][0]}")
        if self.projection is None or (sizes and sizes[-1][1] == self.projection):
            return layers
        if layers:
            raise ValueError(
                f"model.projection={self.projection}: {head.dense[-1]} projects to {sizes[-1][1]}: give that, or null"
            )
        return [Dense(nn.Linear(dim, self.projection, bias=False), nn.Identity())]

    def parts_of_model(
        self, folder: ModelFolder, parts: Sequence[tuple[TextTower, TextTokenizer, Head]]
    ) -> dict[str, Any]:
        """The tower or towers, tokenizer, scale and similarity of a model: arguments of `BiEncoder`. `parts`: those of
        each route of the folder.

        Raises ValueError, in one line, if two towers differ in more than weights.
        """
        towers, tokenizers, heads = zip(*parts, strict=True)
        alike = {(t.fingerprint, t.include_prompt, h.normalized) for t, h in zip(tokenizers, heads, strict=True)}
        if len(alike) > 1:
            raise ValueError(f"model {folder.path}: its two towers differ in tokenizer, length or normalisation")
        tower: TextTower | SeparateTowers = towers[0]
        if len(towers) > 1:
            tower = SeparateTowers(*towers)
        elif self.separate_towers:
            tower = SeparateTowers.of(towers[0])
        tokenizer = replace(tokenizers[0], marks_queries=isinstance(tower, SeparateTowers))
        tokenizer.check_prompts()
        similarity = self.similarity_of(folder)
        normalized = heads[0].normalized if self.normalize is None else self.normalize
        return {
            "tower": tower,
            "tokenizer": tokenizer,
            "scale": self.scale_settings().build(folder.path),
            "similarity": similarity,
            "unit_length": similarity == "cosine" or normalized,
            "source": self.name_or_path,
        }

    def known_similarity(self) -> str:
        return self.similarity or self.similarity_of(self.read_folder())

    def similarity_of(self, folder: ModelFolder) -> str:
        """The similarity of the options, else of the folder. Raises ValueError if it is none of SIMILARITIES."""
        similarity = self.similarity or folder.settings.get("similarity_fn_name") or "cosine"
        if similarity not in SIMILARITIES:
            raise ValueError(f"model {folder.path} compares by {similarity}: set model.similarity=cosine or dot")
        if similarity == "cosine" and self.normalize is False:
            raise ValueError("model.normalize=false: cosine needs embeddings of unit length; set model.similarity=dot")
        return similarity

    def saved_int8_ranges(
        self, folder: ModelFolder, head: Head, dimension: int | None, changes: Mapping[str, bool]
    ) -> Int8Ranges | None:
        """The folder's ranges, unless an option gives other embeddings than those that they were observed for.
        `changes`: whether each further option does."""
        ranges = Int8Ranges.read(folder.path, dimension)
        saved = folder.settings.get("similarity_fn_name") or "cosine"
        changed = {
            **changes,
            "projection": self.projection is not None and not head.dense,
            "similarity": self.similarity is not None and self.similarity != saved,
            "normalize": self.normalize is not None and self.normalize != head.normalized,
        }
        name = next((name for name, is_changed in changed.items() if is_changed), None)
        if ranges is None or name is None:
            return ranges
        logger.warning(
            "model.%s=%s gives other embeddings than those of %s: its int8 ranges are not used",
            name,
            getattr(self, name),
            folder.path,
        )
        return None
