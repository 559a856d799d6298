"""The class of mixedbread's package `mxbai_rerank`, so that its published examples run with another import."""

from __future__ import annotations

import torch

from models.loading.backbone import load_config
from models.loading.folder import ModelFolder
from models.loading.resolve import resolve
from plackett.arguments import names_of_arguments
from plackett.reranker import Reranker, load_reranker

TEMPLATE = "mxbai_joined"  # the token ids of mixedbread's package
MAX_LENGTH = 8192


class MxbaiRerankV2(Reranker):
    """A reranker that reads the prompt of mixedbread's mxbai-rerank-v2, token by token as `mxbai_rerank.MxbaiRerankV2`
    does, and scores by the raw logit, as that does.

        from plackett import MxbaiRerankV2

        model = MxbaiRerankV2("mixedbread-ai/mxbai-rerank-base-v2")
        results = model.rank(query, documents, return_documents=True, top_k=3)

    Differences: weights run in float32; `max_length` counts the prompt too; `top_k` is all unless it is given; no
    documents give no results; `predict` takes pairs.
    """

    def __init__(
        self,
        model_name_or_path: str = "mixedbread-ai/mxbai-rerank-base-v2",
        *,
        device: str | torch.device | None = None,
        max_length: int | None = None,
    ) -> None:
        with names_of_arguments():
            if max_length is None:
                config = load_config(ModelFolder.read(resolve(model_name_or_path)))
                max_length = min(MAX_LENGTH, getattr(config, "max_position_embeddings", MAX_LENGTH))
            model = load_reranker(model_name_or_path, max_length, TEMPLATE)
        super().__init__(model, device)
