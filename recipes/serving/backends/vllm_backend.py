"""vLLM: its pooling models, offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.export.llm_reranker import vllm_overrides
from models.llm_reranker import LLMReranker
from recipes.serving.contract import CUTS_NOTHING, READS_CONTROL_TOKENS, Export, Replay, Unavailable
from recipes.serving.prompt_ids import PromptIds


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay by `LLM(...).embed` and `.score` in float32, as the model card serves it."""
    try:
        from vllm import LLM
    except ImportError:
        raise Unavailable("not installed: pip install vllm") from None
    golden, path = export.golden, str(export.path)
    options: dict[str, Any] = {"runner": "pooling", "dtype": "float32", "enforce_eager": True}
    if golden.layout == "texts":
        model = LLM(path, **options)
        texts = [golden.prompts[row.role] + row.texts[0] for row in golden.rows]
        outputs = model.embed(texts, tokenization_kwargs={"truncate_prompt_tokens": golden.max_length})
        vectors = torch.tensor([output.outputs.embedding for output in outputs])
        return {"": Replay(vectors, limits=READS_CONTROL_TOKENS)}
    template, limits = None, READS_CONTROL_TOKENS | CUTS_NOTHING
    if export.is_prompted:
        options["hf_overrides"] = vllm_overrides(LLMReranker.load(path))
        limits = PromptIds.of(export.path, golden.max_length).limits | CUTS_NOTHING
        template = (export.path / "chat_template.jinja").read_text(encoding="utf-8")
    model = LLM(path, **options)
    scores = [
        float(model.score(query, document, chat_template=template)[0].outputs.score)
        for query, document in export.prompted_pairs
    ]
    return {"": Replay(torch.tensor(scores), "sigmoid", limits)}
