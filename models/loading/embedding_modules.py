"""The modules after the transformer in the folder of an embedding model: pooling, linear layers, normalisation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from models.loading.folder import ModelFolder, read_json
from models.pooling import pooling_modes

logger = logging.getLogger(__name__)

# They do not pool their instruction, which their folders on the hub do not say (as in sentence-transformers).
INSTRUCTORS = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")


@dataclass(frozen=True)
class Head:
    """Modules of sentence-transformers: Transformer > Pooling (> Dense ...) (> Normalize)."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    dense: tuple[Path, ...] = ()
    normalized: bool = False

    @classmethod
    def read(cls, folder: ModelFolder, name: str = "") -> Head:
        """Read the modules of `folder`, the model of that `name`; without a modules.json there is only mean pooling.
        Raises ValueError if there are other modules."""
        names = [name for name, _ in folder.modules]
        if not names:
            return cls()
        normalized = names[-1] == "Normalize"
        dense = folder.modules[2 : len(names) - normalized]
        if names[:2] != ["Transformer", "Pooling"] or any(name != "Dense" for name, _ in dense):
            raise ValueError(
                f"model {folder.path} is {' > '.join(names)}; supported: Transformer > Pooling (> Dense) (> Normalize)"
            )
        config = read_json(folder.modules[1][1] / "config.json") or {}
        modes = tuple(pooling_modes(config))
        include = config.get("include_prompt", True) and name not in INSTRUCTORS
        if include and "instructor" in name.rpartition("/")[2].lower():
            logger.warning(
                'model %s pools its instruction: if it is an INSTRUCTOR, write "include_prompt": false into %s',
                *(name, folder.modules[1][1] / "config.json"),
            )
        return cls(modes, include, tuple(path for _, path in dense), normalized)
