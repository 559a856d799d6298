"""What is measured on several ranks: runs that differ in what a step computes, updates and exchanges."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = "time house river green seven music paper north light stone table water window yellow market engine".split()  # noqa: SIM905
WARM_UP = 2  # steps before those that are measured: AdamW makes its state, the loader fills its queue
NUM_QUERIES = 1000
NUM_NEGATIVES = 7

MODELS = {
    "embedder": ["+exp=embedder_infonce", "trainer.list_size=2", "model.max_length=64"],
    "reranker": ["+exp=reranker_listwise", "loss=lambda_rank", "trainer.list_size=8", "model.max_length=96"],
    "LoRA embedder": ["+exp=embedder_infonce_lora", "trainer.list_size=2", "model.max_length=64"],
}
BATCHES = {"embedder": (16, 32, 64), "reranker": (4, 8, 16), "LoRA embedder": (16, 32, 64)}
CASES = {
    f"{model}, {size} queries": [*MODELS[model], f"trainer.batch_size={size}", "trainer.token_budget=256"]
    for model, sizes in BATCHES.items()
    for size in sizes
}
# One run on two ranks, and one of two that it is compared with: with 4 or 12 times the queries of the experiment.
SIDES = {
    f"{case}, {side}": [*MODELS[case.removeprefix("large ")], f"trainer.batch_size={size}", "trainer.token_budget=1024"]
    for case, whole in (("embedder", 64), ("reranker", 16), ("large embedder", 192), ("large reranker", 48))
    for side, size in (("together", whole), ("apart", whole // 2))
}


def settings_of(overrides: list[str], engine: str, folder: Path) -> Any:
    """The settings of a case, on texts of 10 to 60 words that are written into `folder`."""
    from benchmarks.side_by_side import configured

    data = folder / "texts.jsonl"
    places = ["data=file", f"data.path={data}", f"data.cache_dir={folder / 'cache'}", f"output_dir={folder / 'run'}"]
    common = ["logger=none", "trainer.workers=0", "trainer.kept_chunks=1000", "engine.precision=fp32", "resume=none"]
    return configured([f"engine={engine}", *places, *common, *overrides])


def write_texts(file: Path) -> None:
    """Write NUM_QUERIES queries with a positive and NUM_NEGATIVES negatives each, the same every time."""
    draw = random.Random(0)

    def text(shortest: int, longest: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(shortest, longest)))

    with file.open("w") as lines:
        for _ in range(NUM_QUERIES):
            texts = {"query": text(10, 30), "positive": text(10, 60)}
            lines.write(json.dumps(texts | {"negatives": [text(10, 60) for _ in range(NUM_NEGATIVES)]}) + "\n")
