"""The public Python API: load a trained reranker or embedding model and use it.

    import plackett

    reranker = plackett.load("outputs/reranker_grpo/model")
    for result in reranker.rank("open a file", documents, top_k=3):
        print(result.score, result.document)

    embedder = plackett.load("outputs/embedder_infonce/model")
    queries = embedder.encode(["open a file"], role="query")
    similarities = embedder.similarity(queries, embedder.encode(documents, role="document"))

Importing it changes nothing in the process and imports no torch: that comes with the first name that is used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from plackett.embedder import Embedder, Embeddings
    from plackett.loading import load
    from plackett.mxbai import MxbaiRerankV2
    from plackett.reranker import RankedDocument, Reranker, Scores

__all__ = ["Embedder", "Embeddings", "MxbaiRerankV2", "RankedDocument", "Reranker", "Scores", "load"]

_MODULES = {
    "Embedder": "plackett.embedder",
    "Embeddings": "plackett.embedder",
    "MxbaiRerankV2": "plackett.mxbai",
    "RankedDocument": "plackett.reranker",
    "Reranker": "plackett.reranker",
    "Scores": "plackett.reranker",
    "load": "plackett.loading",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("plackett")
    if name not in _MODULES:
        raise AttributeError(f"module 'plackett' has no attribute {name!r}: it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
