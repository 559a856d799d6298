"""Load a trained embedding model of any kind, as its folder declares."""

from __future__ import annotations

from typing import Any

from models.embedding.options import EmbedderOptions
from models.loading.kind import embedder_class


def embedder_options(
    name_or_path: str, max_length: int | None = None, *, trust_remote_code: bool = False
) -> EmbedderOptions:
    """The options of an embedding model of the kind that its folder, or hub id, declares. A folder that declares none
    is read as a transformer with mean pooling.

    Raises FileNotFoundError or ValueError, in one line, if the folder is not found or not a model.
    """
    kind = embedder_class(name_or_path, trust_remote_code=trust_remote_code)
    options: EmbedderOptions = kind(name_or_path, max_length=max_length, trust_remote_code=trust_remote_code)
    return options


def load_embedder(name_or_path: str, max_length: int | None = None, *, trust_remote_code: bool = False) -> Any:
    """Load the embedding model of a folder or hub id in evaluation mode. Raises as `embedder_options`."""
    return embedder_options(name_or_path, max_length, trust_remote_code=trust_remote_code).build(seed=0).eval()
