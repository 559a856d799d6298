"""Negatives that the starting model mines before training, and a whole run from a folder of documents."""

from __future__ import annotations

import json
import logging
from itertools import cycle, islice
from pathlib import Path

import pytest
from safetensors.torch import load_file

from data.formats.trec import read_run
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from recipes.negatives import mined_training
from recipes.negatives.mine_run import mine
from recipes.negatives.mined_training import with_mined_negatives
from recipes.preparation import prepare
from recipes.training_run import train

EMBEDDER = ["model=bi_encoder", "loss=info_nce", "eval=retrieval", "trainer=contrastive"]
MINED = [*EMBEDDER, "negatives=mined", "negatives.percentage=null", "negatives.num_negatives=3", "trainer.max_steps=2"]
WORDS = ("open", "file", "read", "line", "close", "write", "list", "sort", "key", "value", "item", "name", "text")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten documents with titles."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(10):
        own = list(islice(cycle(WORDS[number % 5 :]), number % 7, 60 + number % 7))
        lines = [f"{' '.join(own[start : start + 12])} {number}{start}.".capitalize() for start in range(0, 60, 12)]
        (folder / f"{number}.txt").write_text(f"About {WORDS[number]} number {number}\n\n{' '.join(lines)}\n")
    (folder / "empty.txt").touch()
    return folder


def settings_of(tiny_run: list[str], *more: str) -> list[str]:
    return [*(setting for setting in tiny_run if setting != "eval.depth=8"), *MINED, *more]


def test_training_queries_get_what_launch_mine_finds(tiny_run, tmp_path, caplog):
    settings = load(settings_of(tiny_run))
    collection = prepare(settings).collection
    out = tmp_path / "run"
    out.mkdir()
    with caplog.at_level(logging.WARNING):
        data = with_mined_negatives(settings, collection, out)
    shared = [each for each in settings_of(tiny_run) if each.startswith(("data", "model.n", "model.max"))]
    shared = [each for each in shared if not each.startswith("data.lists")]
    options = ["mine.output=run", "mine.percentage=null", "mine.num_negatives=3", f"output={tmp_path / 'x.jsonl'}"]
    mine(load([*shared, *options], "mine"))
    expected = {query: list(found) for query, found in read_run(tmp_path / "x.jsonl").items()}
    train_split = data.split("train")
    assert {query: [name for name, _ in found] for query, found in train_split.candidates.items()} == expected
    assert {query: list(found) for query, found in read_run(out / mined_training.FILE).items()} == expected
    for query, found in train_split.candidates.items():
        assert len(found) == 3
        assert not {name for name, _ in found} & {name for name, grade in train_split.qrels[query].items() if grade > 0}
    assert data.splits["test"] is collection.splits["test"]
    assert data.fingerprint == collection.fingerprint
    assert (out / "negatives.jsonl.audit.json").is_file()
    assert "found 72 for 24 training queries (100% of what was asked for); audit: " in caplog.text


def test_late_interaction_mines_before_it_trains(tiny_run, tmp_path):
    own = [*(each for each in tiny_run if each != "eval.depth=8"), "negatives=mined", "negatives.percentage=null"]
    late = ["+exp=colbert_infonce", *own, "negatives.num_negatives=3", "trainer.max_steps=2", "run_name=late"]
    best = train(load([*late, "model.dimension=16", "trainer.list_size=3"]))
    assert best is not None
    found = read_run(tmp_path / "outputs" / "late" / mined_training.FILE)
    assert {len(negatives) for negatives in found.values()} == {3}


def test_queries_without_a_negative_learn_from_the_batch(tiny_run, caplog):
    with caplog.at_level(logging.WARNING):
        best = train(load(settings_of(tiny_run, "negatives.percentage=0.01")))
    assert best is not None
    assert "24 have none, and learn from the documents of other queries alone" in caplog.text


def from_documents(tiny_run: list[str], folder: Path, *more: str) -> list[str]:
    left_out = ("data=", "data.path", "eval.depth", "data.lists", "data.candidates")
    kept = [setting for setting in tiny_run if not setting.startswith(left_out)]
    own = [f"data.path={folder}", "data.chunks.words=40", "data.chunks.overlap=8", "trainer.list_size=2"]
    return ["+exp=from_documents", *kept, *own, *more]


def test_one_command_from_documents_to_a_model(tiny_run, folder, tmp_path, capsys):
    train(load(from_documents(tiny_run, folder, "trainer.max_steps=2", "negatives.percentage=null")))
    run = tmp_path / "outputs" / "from_documents"
    made = json.loads((run / "environment.json").read_text())["data"]["made"]
    assert made["documents"] == 10
    assert made["documents_of_splits"] == {"train": 8, "dev": 1, "test": 1}
    assert set(made["pairs"]) == {"title", "heading", "summary", "crop"}
    assert [json.loads(line)["error"] for line in (run / "skipped.jsonl").read_text().splitlines()] == ["it is empty"]
    summary = json.loads((run / "summary.json").read_text())
    assert {"before", "after", "first_stage"} <= summary.keys()
    negatives = read_run(run / "negatives.jsonl")
    assert sum(map(len, negatives.values())) > 0
    assert (run / "model" / "model.safetensors").is_file()
    assert "before" in capsys.readouterr().out
    train(load(from_documents(tiny_run, folder, "trainer.max_steps=2", "negatives.percentage=null")))
    assert "is finished (2 steps)" in capsys.readouterr().out


class Killed(BaseException):
    """What nobody catches, as a kill."""


@pytest.mark.parametrize("place", ["mining", "training"])
def test_a_killed_run_ends_with_the_same_weights(place, tiny_run, folder, tmp_path, monkeypatch):
    options = ["trainer.max_steps=3", "negatives.percentage=null", "trainer.save_every=1"]
    weights = []
    for name in ("whole", "killed"):
        settings = from_documents(tiny_run, folder, f"run_name={name}", f"data.cache_dir={tmp_path / name}", *options)
        if name == "killed":
            with monkeypatch.context() as patched:
                _kill_in(place, patched)
                with pytest.raises(Killed):
                    train(load(settings))
        train(load(settings))
        weights.append(load_file(tmp_path / "outputs" / name / "model" / "model.safetensors"))
    whole, killed = (tmp_path / "outputs" / name / "negatives.jsonl" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def _kill_in(place: str, patched: pytest.MonkeyPatch) -> None:
    from trainers.trainer import Trainer

    def kill(*_: object, **__: object) -> None:
        raise Killed

    if place == "mining":
        patched.setattr(mined_training.Audit, "add", kill)
        return
    step = Trainer.train_step

    def train_step(self: Trainer, *arguments: object) -> object:
        return kill() if self.state.step == 2 else step(self, *arguments)

    patched.setattr(Trainer, "train_step", train_step)


def write_negatives(arguments: list[str], out: Path) -> None:
    from recipes.start import join_ranks

    settings = load(arguments)
    collection = prepare(settings).collection
    join_ranks(60, None)
    with_mined_negatives(settings, collection, out)


def test_two_ranks_mine_the_same(tiny_run, tmp_path):
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        out.mkdir()
        run_ranks(write_negatives, ranks, settings_of(tiny_run, f"data.cache_dir={out / 'cache'}"), out)
    first, second = (read_run(tmp_path / ranks / mined_training.FILE) for ranks in "12")
    assert {query: list(found) for query, found in first.items()} == {q: list(found) for q, found in second.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["negatives=mined"],
            "negatives: the model scores pairs, by which no corpus can be searched: mine them by launch",
        ),
        ([*MINED, "trainer.list_size=1"], "negatives: lists of one document hold none: raise trainer.list_size"),
        ([*MINED, "negatives.num_negatives=0"], "negatives.num_negatives=0 must be at least 1"),
        ([*MINED, "negatives.sampling=best"], "negatives.sampling=best is not a choice: valid: "),
        ([*MINED, "negatives.num_negatives=999"], "negatives.num_negatives=999: the corpus has "),
        (
            ["+exp=reranker_three_stage", "negatives=mined", "model=bi_encoder_scored"],
            "negatives: they are mined once, for a",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message, tiny_run):
    with pytest.raises(ValueError) as caught:
        train(load([*(setting for setting in tiny_run if setting != "eval.depth=8"), *arguments]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert "mine.num" not in str(caught.value)
