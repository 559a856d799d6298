"""Whole runs on data files: from rows to an exported model, and a mixture of two layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.cli.compose import load
from recipes.training_run import train

WORDS = ("red", "green", "blue", "apple", "pear", "train", "rank", "list", "query", "document")


def text(number: int, *, about: str) -> str:
    return f"{WORDS[number % 10]} {WORDS[(number * 3 + 1) % 10]} {about}{number}"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Triplets as jsonl, positive pairs under names of their own as csv."""
    triplets = [
        {"anchor": text(i, about="q"), "negative": text(i + 7, about="n"), "positive": text(i, about="p")}
        for i in range(40)
    ]
    (tmp_path / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triplets))
    pairs = [f"{text(i, about='a')},{text(i, about='b')}\n" for i in range(30)]
    (tmp_path / "pairs.csv").write_text("".join(["title,body\n", *pairs]))
    return {"triplets": str(tmp_path / "triplets.jsonl"), "pairs": str(tmp_path / "pairs.csv")}


def common(tiny_bert_dir: Path, folder: Path) -> list[str]:
    return [
        f"model.name_or_path={tiny_bert_dir}",
        "model.max_length=48",
        "trainer=ranking",
        "trainer.max_steps=4",
        "trainer.batch_size=6",
        "trainer.list_size=4",
        "trainer.token_budget=100",
        "trainer.workers=0",
        "logger=none",
        f"output_dir={folder}",
        "run_name=run",
    ]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


def test_triplets_train_a_reranker(files: dict[str, str], tiny_bert_dir: Path, tmp_path: Path):
    data = ["data=file", f"data.path={files['triplets']}"]
    train(load(["loss=rank_net", *data, *common(tiny_bert_dir, tmp_path)]))
    assert len(losses(tmp_path)) == 4
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    with pytest.raises(ValueError, match=r"^loss MarginMSE does not fit data triplets.jsonl, .* lack teacher_scores"):
        train(load(["loss=margin_mse", *data, *common(tiny_bert_dir, tmp_path / "other")]))
    assert not (tmp_path / "other").exists()


def test_a_mixture_of_layouts_trains_an_embedder(files: dict[str, str], tiny_bert_dir: Path, tmp_path: Path):
    """That two ranks draw the same batches is tests/data/sampling/test_epoch_plan.py."""
    sources = [
        "data=mixture",
        *(f"+data@data.sources.{name}=file" for name in files),
        *(f"data.sources.{name}.path={file}" for name, file in files.items()),
        *(f"data.sources.{name}.cache_dir={tmp_path}" for name in files),
        "data.sources.pairs.columns={query: title, positive: body}",
        "data.weights={triplets: 1, pairs: 1}",
    ]
    model = ["model=bi_encoder", "model.temperature=0.05", "eval=retrieval", "loss=info_nce", "loss.temperature=null"]
    train(load([*model, *sources, *common(tiny_bert_dir, tmp_path)]))
    assert all(0 < loss < 20 for loss in losses(tmp_path))
    assert (tmp_path / "run" / "model" / "modules.json").is_file()
