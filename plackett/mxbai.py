"""The class of mixedbread's package `mxbai_rerank`, so that its published examples run with another import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.loading.backbone import load_config
from models.loading.folder import ModelFolder
from models.loading.resolve import resolve
from plackett.arguments import names_of_arguments
from plackett.reranker import Reranker, load_reranker

if TYPE_CHECKING:
    from models.cross_encoder import CrossEncoder
    from models.llm_reranker import LLMReranker

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
        super().__init__(_load(model_name_or_path, max_length, trust_remote_code=False), device)

    @staticmethod
    def load(
        name_or_path: str | Path,
        *,
        max_length: int | None = None,
        template: str | None = None,
        device: str | torch.device | None = None,
        special_tokens: bool = False,
        trust_remote_code: bool = False,
    ) -> MxbaiRerankV2:
        """Load the reranker of a folder or hub id. The options are those of `plackett.load`; the template is always
        that of mixedbread's package, another is refused."""
        if template not in (None, TEMPLATE):
            raise ValueError(f"template={template!r}: MxbaiRerankV2 has its own, {TEMPLATE!r}: plackett.load takes any")
        found = MxbaiRerankV2.__new__(MxbaiRerankV2)
        model = _load(name_or_path, max_length, trust_remote_code=trust_remote_code)
        if special_tokens:
            model.tokenizer = replace(model.tokenizer, split_special_tokens=False)
        Reranker.__init__(found, model, device)
        return found


def _load(name_or_path: str | Path, max_length: int | None, *, trust_remote_code: bool) -> CrossEncoder | LLMReranker:
    name = str(name_or_path)
    with names_of_arguments():
        if max_length is None:
            folder = ModelFolder.read(resolve(name, code=trust_remote_code), trusted=trust_remote_code)
            max_length = min(MAX_LENGTH, getattr(load_config(folder), "max_position_embeddings", MAX_LENGTH))
        return load_reranker(name, max_length, TEMPLATE, trust_remote_code=trust_remote_code)
