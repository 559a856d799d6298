"""The training texts of a setting: where they come from, and how much work they are."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

from benchmarks.side_by_side import RowFlops, configured, make_trainer
from benchmarks.speed.setting import FOLDER, RANDOM, Job, Setting
from benchmarks.speed.turns import TEXTS

WORDS = "what is the rank list query document python returns value open file read write text index score".split()  # noqa: SIM905
DECODER = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8} | {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
TINY: dict[str, int] = {}  # the sizes of tests/tiny_models.py
POOL = 4  # texts that repeated negatives are drawn from
DEV_AND_TEST = 0.05  # share of random rows that training does not read, each


def prepare(job: Job, experiment: str, *overrides: str) -> tuple[Any, Any]:
    """The settings of plackett's run and its data."""
    setting = job.setting
    if job.side == TEXTS:
        write_files(job)
    settings = configured(
        [
            f"+exp={experiment}",
            *data_overrides(job),
            *((f"model.name_or_path={job.model_folder}",) if setting.tiny or setting.tiny_decoder else ()),
            f"output_dir={job.scratch / 'run'}",
            f"seed={setting.seed}",
            f"model.max_length={setting.max_length}",
            f"trainer.max_steps={setting.num_steps}",
            f"trainer.save_every={setting.num_steps + 1}",
            f"trainer.batch_size={setting.batch_size}",
            f"trainer.list_size={setting.list_size}",
            "trainer.workers=0",  # both sides tokenise in the process that trains
            "engine.precision=fp32",
            "logger=none",
            *overrides,
            *setting.overrides,
        ]
    )
    return settings, settings.data.build()


def data_overrides(job: Job) -> list[str]:
    """The settings of the data."""
    if job.setting.data == FOLDER:
        return ["data=beir", f"data.path={job.setting.path}"]
    if job.setting.data == RANDOM:
        shares = [f"data.dev_fraction={DEV_AND_TEST}", f"data.test_fraction={DEV_AND_TEST}"]
        return ["data=file", f"data.path={job.rows_file}", "data.lists.no_duplicates=false", *shares]
    return []


def one_relevant(data: Any) -> Any:
    """Restrict a collection so that each training list has one relevant document.

    Other relevant documents are removed from the candidates, and queries without a candidate are removed.
    """
    train = data.split("train")
    candidates = {
        query: [(name, score) for name, score in ranked if not train.qrels.get(query, {}).get(name)]
        for query, ranked in train.candidates.items()
    }
    queries = {query: text for query, text in train.queries.items() if candidates[query]}
    train = dataclasses.replace(train, queries=queries, candidates=candidates)
    return dataclasses.replace(data, splits=data.splits | {"train": train})


def batches_of(settings: Any, data: Any, count: int) -> tuple[Any, list[Any]]:
    """The lists of plackett's loader, and the first batches that it gives."""
    batches = make_trainer(settings, data).batches
    return batches.loader.lists, list(batches.read(range(count)))


def work_of(batches: Sequence[Any], flops: RowFlops) -> list[dict[str, float]]:
    """The rows, unpadded tokens and operations of each step, and the shares of those that repeat an earlier row of the
    step."""
    work = []
    for batch in batches:
        lengths, ids = batch.sequences.lengths.tolist(), batch.sequences.features["input_ids"]
        seen: set[bytes] = set()
        repeated, start = [], 0
        for length in lengths:
            row = ids[start : start + length].tobytes()
            repeated += [length] if row in seen else []
            seen.add(row)
            start += length
        total = flops.of(lengths)
        entry = {"rows": len(lengths), "tokens": sum(lengths), "flops": total}
        work.append(entry | {"repeated_share": flops.of(repeated) / total})
    return work


def write_files(job: Job) -> None:
    """Write what a setting reads that does not exist yet: random rows, a model with random weights."""
    from tests.tiny_models import write_tiny_bert, write_tiny_causal

    if job.setting.data == RANDOM and not job.rows_file.is_file():
        write_rows(job)
    if job.setting.tiny_decoder and not job.model_folder.is_dir():
        sizes = TINY if job.setting.tiny else DECODER
        write_tiny_causal(job.model_folder, architecture="qwen3", max_position_embeddings=1024, **sizes)
    elif job.setting.tiny and not job.model_folder.is_dir():
        write_tiny_bert(job.model_folder)


def write_rows(job: Job) -> None:
    """Write random queries, each with a relevant document and `list_size` - 1 others, in the columns that the kind
    reads. A share of the others (`repeated`) is drawn from a pool of few."""
    setting, draw = job.setting, random.Random(job.setting.seed)
    needed = (setting.num_steps + 1) * setting.batch_size
    pool = [document(draw, setting) for _ in range(POOL)]
    rows = []
    for _ in range(int(needed / (1 - 2 * DEV_AND_TEST)) + 40):
        query = text(draw, setting.query_words)
        others = draw.sample(pool, min(POOL, setting.list_size))
        negatives = [
            others.pop() if others and draw.random() < setting.repeated else document(draw, setting)
            for _ in range(setting.list_size - 1)
        ]
        rows.append({"query": query, "positive": document(draw, setting), "negatives": negatives})
    job.rows_file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def document(draw: random.Random, setting: Setting) -> str:
    least, mean = setting.words
    return text(draw, least + (int(draw.expovariate(1 / (mean - least))) if mean > least else 0))


def text(draw: random.Random, num_words: int) -> str:
    """Random words, and a number that makes the text the only one of its kind."""
    return " ".join([*draw.choices(WORDS, k=num_words), str(draw.randrange(10**6))])
