"""Runs of a static embedder: they go on where they were, start from an export, mine for other models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from running import go_on, metrics_of

import plackett
from launch.cli.compose import load
from recipes.negatives.mine_run import mine
from recipes.training_run import train

STEPS = 4
OWN = ["eval.depth=100", "trainer.token_budget=200", "trainer.optimizer=adamw", "model.start=random"]


@pytest.fixture(scope="module")
def run_options(tiny_overrides: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    options = tiny_overrides(tmp_path_factory.mktemp("static_runs"))
    whole = [option for option in options if not option.startswith(("model.max_length", "trainer.optimizer"))]
    return ["+exp=static_infonce", *whole, *OWN, "model.dimension=16"]


@pytest.fixture(scope="module")
def trained(run_options: list[str]) -> Path:
    """The run directory of a whole run."""
    train(load([*run_options, "run_name=first", "trainer.max_steps=8", "trainer.eval_every=4"]))
    return Path(next(option for option in run_options if option.startswith("output_dir=")).partition("=")[2]) / "first"


def test_a_run_goes_on_where_it_was(run_options: list[str]) -> None:
    options = [*run_options, f"trainer.max_steps={STEPS}", "trainer.save_every=1"]
    options += ["trainer.schedule=constant", "trainer.warmup_ratio=0"]
    whole, _, going_on = go_on(options, 2)
    going_on.fit()
    expected, found = ([line for line in metrics_of(run) if line["split"] == "train"] for run in (whole, going_on))
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]
    assert len({line["grad_norm"] for line in expected}) == STEPS
    torch.testing.assert_close(
        dict(going_on.engine.model.named_parameters()), dict(whole.engine.model.named_parameters()), rtol=0, atol=0
    )


def test_an_export_is_a_start_and_gives_sentence_transformers_its_vectors(
    trained: Path, run_options: list[str]
) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["best_dev"] > 0
    texts = ["what is python?", "", "a red apple " * 200, "日本"]
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformer(str(trained / "model"), device="cpu")
    own = plackett.load(trained / "model").encode(texts, role="document")
    assert np.abs(own - theirs.encode_document(texts)).max() < 1e-5
    options = [option for option in run_options if not option.startswith(("model.", "trainer.max_steps"))]
    train(load([*options, f"model.name_or_path={trained / 'model'}", "run_name=second", "trainer.max_steps=1"]))
    again = json.loads((trained.parent / "second" / "summary.json").read_text())
    assert again["before"] == summary["after"]


def test_it_mines_the_negatives_of_another_model(
    trained: Path, run_options: list[str], tiny_bert_dir: Path, tmp_path: Path
) -> None:
    data = [option for option in run_options if option.startswith(("data=", "data.path", "data.cache_dir"))]
    model = ["model=static_embedder", f"model.name_or_path={trained / 'model'}"]
    output = tmp_path / "mined.jsonl"
    mine(load([*data, *model, f"output={output}", "mine.percentage=null"], "mine"))
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 24
    options = ["data=file", f"data.path={output}", f"data.cache_dir={tmp_path}", f"output_dir={tmp_path}"]
    options += ["eval.depth=100", "trainer.max_steps=1", "trainer.batch_size=2", "trainer.workers=0", "logger=none"]
    train(
        load(
            ["+exp=embedder_infonce", *options, f"model.name_or_path={tiny_bert_dir}", "data.lists.no_duplicates=false"]
        )
    )
    assert (tmp_path / "embedder_infonce" / "model" / "modules.json").is_file()
