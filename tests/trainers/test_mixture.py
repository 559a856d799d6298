"""Two data sets of different columns in one run: one set per global step, no text twice, two ranks equal to one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import run_several

from engines.distributed.testing import run_ranks

WORDS = ("red", "green", "blue", "apple", "pear", "train", "rank", "list", "query", "document")


def text(number: int, about: str) -> str:
    return f"{WORDS[number % 10]} {WORDS[(number * 3 + 1) % 10]} {about}{number}"


@pytest.fixture
def mixture(tmp_path: Path) -> list[str]:
    """Triplets, and positive pairs under other names."""
    names = ("anchor", "positive", "negative")
    rows = [dict(zip(names, (text(i, "q"), text(i, "p"), text(i + 7, "n")), strict=True)) for i in range(40)]
    (tmp_path / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.csv").write_text("title,body\n" + "".join(f"{text(i, 'a')},{text(i, 'b')}\n" for i in range(30)))
    files = {"triplets": "triplets.jsonl", "pairs": "pairs.csv"}
    return [
        "data=mixture",
        *(f"+data@data.sources.{name}=file" for name in files),
        *(f"data.sources.{name}.path={tmp_path / file}" for name, file in files.items()),
        *(f"data.sources.{name}.cache_dir={tmp_path}" for name in files),
        "data.sources.pairs.columns={query: title, positive: body}",
        "data.weights={triplets: 1, pairs: 1}",
    ]


def test_a_mixture_trains_alike_on_one_and_two_ranks(mixture: list[str], tiny_run: list[str]) -> None:
    kept = [option for option in tiny_run if not option.startswith("data")]
    composed = ["model=bi_encoder", "loss=info_nce", "trainer=contrastive", "eval=retrieval", *mixture, *kept]
    run = [*composed, "trainer.max_steps=8", "eval.depth=100", "run_name=mixed", "trainer.batch_size=6"]
    ((alone, _),) = run_ranks(run_several, 1, [run])[0]
    moved = [f"output_dir={option.split('=', 1)[1]}2" if option.startswith("output_dir=") else option for option in run]
    ((first, _),) = run_ranks(run_several, 2, [moved])[0]
    steps, again = ([line for line in lines if line["split"] == "train"] for lines in (alone, first))
    assert len(steps) == len(again) == 8
    assert {line["source"] for line in steps} == {"triplets", "pairs"}
    for one, two in zip(steps, again, strict=True):
        assert one["source"] == two["source"]
        assert one["duplicates"] == two["duplicates"] == 0
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
