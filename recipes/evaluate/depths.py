"""The depth sweep of an evaluation by reranking (`eval.depths`)."""

from __future__ import annotations

from typing import Any

from evaluation.depth_sweep import sweep_depths
from evaluation.metrics import Qrels, Run
from recipes.evaluate.config import EvaluationConfig


def check_has_first_stage(settings: EvaluationConfig, has_first_stage: bool) -> None:
    """Raise ValueError if depths are asked for of candidates that nothing has ranked."""
    if getattr(settings.eval, "depths", []) and not has_first_stage:
        raise ValueError(
            f"eval.depths={settings.eval.depths}: the candidates are what the data list with each query, in random "  # type: ignore[attr-defined]
            "order, so there is no first stage whose order a depth cuts: leave it out, or set first_stages=[bm25]"
        )


def depth_sweep(settings: EvaluationConfig, qrels: Qrels, first_stage: Run, scores: Run) -> dict[str, Any]:
    """The entry of a summary with the comparison of `eval.depths`; nothing without these."""
    depths = getattr(settings.eval, "depths", [])
    if not depths:
        return {}
    found = sweep_depths(qrels, first_stage, scores, depths, settings.eval.metric, settings.eval.metrics)
    return {"depth_sweep": found.as_dict()}
