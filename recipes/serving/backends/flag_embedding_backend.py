"""FlagEmbedding: FlagReranker and FlagModel."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from models.loading.embedding_modules import Head
from recipes.serving.contract import READS_CONTROL_TOKENS, Export, Replay, Unavailable

POOLING = {"cls": "cls", "mean": "mean"}


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay by its classes for encoders, in float32."""
    try:
        import FlagEmbedding
    except ImportError:
        raise Unavailable("not installed: pip install FlagEmbedding") from None
    golden, path = export.golden, str(export.path)
    if export.is_prompted:
        raise Unavailable("its LLM rerankers have a prompt of their own")
    if golden.layout == "pairs":
        reranker = FlagEmbedding.FlagReranker(path, use_fp16=False, devices="cpu")
        length = golden.max_length
        scores = reranker.compute_score(
            export.prompted_pairs, max_length=length, query_max_length=length, normalize=False, batch_size=4
        )
        return {"": Replay(torch.tensor(scores), limits=READS_CONTROL_TOKENS)}
    routes = export.folder.routes()
    head = Head.read(routes[""]) if "" in routes else None
    if head is None or head.dense or len(head.modes) > 1 or head.modes[0] not in POOLING or not head.include_prompt:
        raise Unavailable("it reads encoders with cls or mean pooling of the whole text, and no projection")
    model = FlagEmbedding.FlagModel(
        path, head.normalized, use_fp16=False, devices="cpu", pooling_method=POOLING[head.modes[0]]
    )
    texts = {role: [golden.prompts[role] + text for text in golden.texts_of(role)] for role in ("query", "document")}
    vectors = [torch.tensor(model.encode(texts[role], max_length=golden.max_length, batch_size=4)) for role in texts]
    return {"": Replay(torch.cat(vectors), limits=READS_CONTROL_TOKENS)}
