"""sentence-transformers: CrossEncoder and SentenceTransformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.loading.backbone import quiet
from recipes.serving.contract import READS_CONTROL_TOKENS, Export, Replay, Unavailable
from recipes.serving.prompt_ids import PromptIds
from tensors.ragged import Ragged, concatenate

# Transformer._restore_chat_template_suffix: it derives that end from short texts, and puts it over the last tokens.
CUTS_OTHERWISE = {"truncated": "puts the end of a short prompt, tokenised without this document, behind what it cuts"}


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay by the calls of the model card."""
    try:
        import sentence_transformers
    except ImportError:
        raise Unavailable("not installed: pip install sentence-transformers") from None
    options: dict[str, Any] = {"show_progress_bar": False, "batch_size": 4}
    with quiet():
        if export.golden.layout == "pairs":
            reranker = sentence_transformers.CrossEncoder(str(export.path), device="cpu")
            scores = reranker.predict(export.pairs, convert_to_tensor=True, **options).float()
            return {"": Replay(scores, through="own", limits=_limits(export))}
        kind = export.kind or "SentenceTransformer"
        if not hasattr(sentence_transformers, kind):
            raise Unavailable(f"this release has no {kind}: pip install -U sentence-transformers")
        model = getattr(sentence_transformers, kind)(str(export.path), device="cpu")
        queries = model.encode_query(export.golden.texts_of("query"), **options)
        documents = model.encode_document(export.golden.texts_of("document"), **options)
    return {"": Replay(concatenate([_rows(queries), _rows(documents)]).float(), limits=READS_CONTROL_TOKENS)}


def _rows(embeddings: Any) -> Any:
    """Embeddings [texts, dim], or ragged ones of a list of [tokens, dim]."""
    if isinstance(embeddings, list):
        return Ragged(torch.cat(embeddings), torch.tensor([len(vectors) for vectors in embeddings]))
    vectors = torch.as_tensor(embeddings)
    return vectors.to_dense() if vectors.is_sparse else vectors


def _limits(export: Export) -> Mapping[str, str]:
    if not export.is_prompted:
        return READS_CONTROL_TOKENS
    prompt_ids = PromptIds.of(export.path, export.golden.max_length)
    end = prompt_ids.end
    ends = [list(row.input_ids[len(row.input_ids) - len(end or ()) :]) for row in export.golden.rows if row.truncated]
    limits = {name: reason for name, reason in prompt_ids.limits.items() if name != "truncated"}
    return limits | (CUTS_OTHERWISE if any(found != end for found in ends) else {})
