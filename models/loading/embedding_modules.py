"""The modules after the transformer in the folder of an embedding model: pooling, linear layers, normalisation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.loading.folder import STATIC, ModelFolder, read_json
from models.pooling import pooling_modes

logger = logging.getLogger(__name__)

# They do not pool their instruction, which their folders on the hub do not say (as in sentence-transformers).
INSTRUCTORS = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")


@dataclass(frozen=True)
class Head:
    """Modules of sentence-transformers: Transformer > Pooling (> Dense ...) (> Normalize), or another first module."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    dense: tuple[Path, ...] = ()
    normalized: bool = False

    @classmethod
    def read(cls, folder: ModelFolder, name: str = "", *, first: Sequence[str] = ("Transformer", "Pooling")) -> Head:
        """Read the modules of `folder`, the model of that `name`, which begins with those of `first`; without a
        modules.json there is only mean pooling. Raises ValueError if there are other modules."""
        names = [name for name, _ in folder.modules]
        if not names:
            return cls()
        normalized = names[-1] == "Normalize"
        dense = folder.modules[len(first) : len(names) - normalized]
        if names[: len(first)] != [*first] or any(name != "Dense" for name, _ in dense):
            remedy = ": choose model=static_embedder" if names[0] == STATIC and first[0] != STATIC else ""
            raise ValueError(
                f"model {folder.path} is {' > '.join(names)}; supported: {' > '.join(first)} (> Dense) (> Normalize)"
                f"{remedy}"
            )
        if "Pooling" not in first:
            return cls(dense=tuple(path for _, path in dense), normalized=normalized)
        config = read_json(folder.modules[1][1] / "config.json") or {}
        modes = tuple(pooling_modes(config))
        include = config.get("include_prompt", True) and name not in INSTRUCTORS
        if include and "instructor" in name.rpartition("/")[2].lower():
            logger.warning(
                'model %s pools its instruction: if it is an INSTRUCTOR, write "include_prompt": false into %s',
                *(name, folder.modules[1][1] / "config.json"),
            )
        return cls(modes, include, tuple(path for _, path in dense), normalized)
