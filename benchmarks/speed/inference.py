"""A trained model at work: plackett's `encode` and `rank` beside those of sentence-transformers, on the same folder.

Both run with their defaults and in fp32, and order texts by length themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side_by_side import RowFlops
from benchmarks.speed.setting import OURS, Job
from benchmarks.speed.texts import prepare
from benchmarks.speed.turns import Turns

ENCODE, RERANK = "encode", "rerank"
EXPERIMENTS = {ENCODE: "embedder_infonce", RERANK: "reranker_contrastive"}
COMPARED = 200  # values of a turn

Queries = list[tuple[str, list[str]]]  # each with its documents; of `encode` one that is empty


def make_texts(job: Job) -> dict[str, Any]:
    """Export the model, and draw the texts of each step: `batch_size` documents, or so many queries with `list_size`
    documents each. And count the work of each."""
    setting = job.setting
    settings, data = prepare(job, EXPERIMENTS[setting.kind])
    model = settings.model.build(setting.seed)
    model.export(exported(job))
    flops = RowFlops.count(settings.model, backward=False)
    draw, steps, work = random.Random(setting.seed), [], []
    for _ in range(setting.num_steps):
        if setting.kind == ENCODE:
            step = [("", drawn(draw, data.documents, setting.batch_size))]
            rows = model.tokenizer(step[0][1], role="document")
        else:
            step = lists(draw, data, setting.batch_size, setting.list_size)
            pairs = [(query, text) for query, texts in step for text in texts]
            rows = model.tokenizer(*map(list, zip(*pairs, strict=True)))
        lengths = [len(row) for row in rows["input_ids"]]
        steps.append(step)
        work.append({"rows": len(lengths), "tokens": sum(lengths), "flops": flops.of(lengths)})
    return {"texts": steps, "steps": work}


def drawn(draw: random.Random, documents: Any, count: int) -> list[str]:
    """Documents of a collection, without one twice if there are enough."""
    names = sorted(documents)
    chosen = draw.sample(names, count) if count <= len(names) else draw.choices(names, k=count)
    return [documents[name] for name in chosen]


def lists(draw: random.Random, data: Any, count: int, size: int) -> Queries:
    """Training queries, each with the first stage's candidates, and with random documents if these are too few."""
    train = data.split("train")
    found = []
    for query in draw.sample(sorted(train.queries), count):
        texts = [data.documents[name] for name, _ in train.candidates[query][:size]]
        found.append((train.queries[query], texts + drawn(draw, data.documents, size - len(texts))))
    return found


def run(job: Job, turns: Turns) -> None:
    """Run the model on one side, step by step."""
    method = (METHODS if job.side == OURS else PEER_METHODS)[job.setting.kind](str(exported(job)))
    for step in job.texts["texts"]:
        values = np.concatenate([np.ravel(method(query, texts)) for query, texts in step])
        turns.found = {"values": values[:COMPARED].tolist()}
        turns.step_done()


def exported(job: Job) -> Path:
    """The folder of the model that both sides load."""
    return job.texts_file.with_suffix(".export")


Method = Callable[[str, Sequence[str]], Any]


def our_encode(folder: str) -> Method:
    import plackett

    model = plackett.load(folder, kind="embedder")
    return lambda _, texts: model.encode(texts, role="document")


def our_rank(folder: str) -> Method:
    import plackett

    model = plackett.load(folder, kind="reranker")
    return lambda query, texts: in_given_order({row.index: row.score for row in model.rank(query, texts)})


def peer_encode(folder: str) -> Method:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder)
    return lambda _, texts: model.encode(texts, show_progress_bar=False)


def peer_rank(folder: str) -> Method:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder)

    def rank(query: str, texts: Sequence[str]) -> list[float]:
        ranked = model.rank(query, list(texts), show_progress_bar=False)
        return in_given_order({int(row["corpus_id"]): float(row["score"]) for row in ranked})

    return rank


def in_given_order(scores: dict[int, float]) -> list[float]:
    return [scores[index] for index in range(len(scores))]


METHODS = {ENCODE: our_encode, RERANK: our_rank}
PEER_METHODS = {ENCODE: peer_encode, RERANK: peer_rank}
