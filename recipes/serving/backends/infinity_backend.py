"""infinity-emb: its engine, without the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from recipes.serving.contract import READS_CONTROL_TOKENS, Export, Replay, Unavailable


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay by its torch engine in float32."""
    try:
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs
    except ImportError:
        raise Unavailable("not installed: pip install infinity-emb") from None
    if export.is_prompted:
        raise Unavailable("it reads sequence classifiers: `python launch/export.py MODEL --sequence-classification`")
    options: dict[str, Any] = {"engine": "torch", "device": "cpu", "dtype": "float32", "batch_size": 4}
    options |= {"bettertransformer": False, "compile": False, "model_warmup": False}
    engine = AsyncEmbeddingEngine.from_args(EngineArgs(model_name_or_path=str(export.path), **options))
    return {"": Replay(asyncio.run(_run(engine, export)), limits=READS_CONTROL_TOKENS)}


async def _run(engine: Any, export: Export) -> torch.Tensor:
    golden = export.golden
    async with engine:
        if golden.layout == "texts":
            texts = [golden.prompts[row.role] + row.texts[0] for row in golden.rows]
            vectors, _ = await engine.embed(sentences=texts)
            return torch.from_numpy(np.array(vectors))
        scores = []
        for query, document in export.prompted_pairs:
            ranking, _ = await engine.rerank(query=query, docs=[document], raw_scores=True)
            scores.append(float(ranking[0].relevance_score))
        return torch.tensor(scores)
