"""sentence-transformers: CrossEncoder and SentenceTransformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.loading.backbone import quiet
from recipes.serving.contract import READS_CONTROL_TOKENS, Export, Replay, Unavailable


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay by the calls of the model card."""
    try:
        import sentence_transformers
    except ImportError:
        raise Unavailable("not installed: pip install sentence-transformers") from None
    options: dict[str, Any] = {"convert_to_tensor": True, "show_progress_bar": False, "batch_size": 4}
    with quiet():
        if export.golden.layout == "pairs":
            reranker = sentence_transformers.CrossEncoder(str(export.path), device="cpu")
            scores = reranker.predict(export.pairs, **options).float()
            return {"": Replay(scores, through="own", limits=READS_CONTROL_TOKENS)}
        model = sentence_transformers.SentenceTransformer(str(export.path), device="cpu")
        queries = model.encode_query(export.golden.texts_of("query"), **options)
        documents = model.encode_document(export.golden.texts_of("document"), **options)
    vectors = torch.cat([queries, documents])
    return {"": Replay(vectors.float(), limits=READS_CONTROL_TOKENS)}
