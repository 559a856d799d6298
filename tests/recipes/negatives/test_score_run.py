"""launch/score.py: the scores of a teacher, in files that training reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.candidates import RunFileCandidates
from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from recipes.negatives import scored_lists
from recipes.negatives.score_run import score

NAMES = ["red", "green", "blue", "apple", "pear", "train", "rank", "list", "bird", "tree"]


def rows() -> list[dict[str, Any]]:
    """Lists of 1 to 5 documents with labels; some have a weight or a prompt."""
    found = []
    for number, name in enumerate(NAMES * 2):
        documents = [f"{NAMES[(number * 3 + place) % 10]} {place} {name}" for place in range(1 + number % 5)]
        row = {"query": f"what is {name} {number}", "documents": documents, "labels": [2, *[0] * (len(documents) - 1)]}
        more = {0: {"weight": 0.5}, 1: {"prompt": "find: "}}.get(number % 4, {})
        found.append(row | more)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()))
    return path


@pytest.fixture
def settings(tiny_reranker_dir: Path, file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def make(output: str, *more: str, data: Path = file, kind: str = "file", model: Path = tiny_reranker_dir):
        own = [f"data={kind}", f"data.path={data}", f"data.cache_dir={tmp_path / 'cache'}", "model.max_length=32"]
        return [*own, f"model.name_or_path={model}", f"output={tmp_path / output}", *more]

    return make


def run(arguments: list[str]) -> float:
    return score(load(arguments, "score"))


def read(path: Path) -> dict[str, dict[str, Any]]:
    found = (json.loads(line) for line in path.read_text().splitlines())
    return {row["query"]: row for row in found}


def of_the_model(folder: Path, row: dict[str, Any]) -> list[float]:
    """The logits by the library of others, a pair at a time."""
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    model = CrossEncoder(str(folder), max_length=32, device="cpu")
    pairs = [(f"{row.get('prompt', '')}{row['query']}", document) for document in row["documents"]]
    return [float(model.predict([pair], activation_fn=Identity())[0]) for pair in pairs]


def test_lists_of_a_file_get_scores(settings, tmp_path, tiny_reranker_dir, capsys):
    share = run(settings("scored.jsonl"))
    written = read(tmp_path / "scored.jsonl")
    expected = {row["query"]: row for row in rows()}
    assert written.keys() == expected.keys()
    for query, row in expected.items():
        found = written[query]
        labels = dict(zip(row["documents"], row["labels"], strict=True))
        assert dict(zip(found["documents"], found["labels"], strict=True)) == labels
        assert {name: found.get(name) for name in ("weight", "prompt")} == {
            name: row.get(name) for name in ("weight", "prompt")
        }
        np.testing.assert_allclose(found["scores"], of_the_model(tiny_reranker_dir, found), atol=1e-5)
    out = capsys.readouterr().out
    assert "60 scores of 20 queries" in out
    assert f"a relevant document has the highest score in {share:.1%} of 16 lists" in out
    meta = json.loads((tmp_path / "scored.jsonl.meta.json").read_text())
    assert meta["data"] == "lists.jsonl"
    assert not list(tmp_path.glob("*.unfinished"))


def test_training_reads_them_with_the_same_splits(settings, file, tmp_path):
    run(settings("scored.jsonl"))
    before, after = (
        FileConfig(path=str(path), cache_dir=str(tmp_path)).build() for path in (file, tmp_path / "scored.jsonl")
    )
    for name, split in before.splits.items():
        other = after.splits[name]
        assert set(split.queries.values()) == set(other.queries.values())
        assert {q: dict(j) for q, j in split.judgements.items()} == {q: dict(j) for q, j in other.judgements.items()}
        assert (split.weights, split.prompts) == (other.weights, other.prompts)
    assert "teacher_scores" not in before.available
    assert "teacher_scores" in after.available
    written = read(tmp_path / "scored.jsonl")
    split = after.split("train")
    for query, listed in split.candidates.items():
        texts = {after.documents[document]: value for document, value in listed}
        row = written[split.queries[query]]
        assert texts == dict(zip(row["documents"], row["scores"], strict=True))


@pytest.mark.parametrize("name", ["teacher.jsonl", "teacher.run"])
def test_candidates_with_ids(settings, tiny_beir_dir, tmp_path, name):
    run(settings(name, "depth=4", data=tiny_beir_dir, kind="beir"))
    source = RunFileCandidates(path=str(tmp_path / name))
    plain, taught = (
        BEIRConfig(path=str(tiny_beir_dir), cache_dir=str(tmp_path), **options).build()
        for options in ({}, {"candidates": source})
    )
    assert "teacher_scores" in taught.available
    for split_name, split in plain.splits.items():
        for query, found in split.candidates.items():
            listed = {document for document, _ in found[:4]} | set(split.qrels.get(query, {}))
            scores = [score for _, score in taught.splits[split_name].candidates[query]]
            assert {document for document, _ in taught.splits[split_name].candidates[query]} == listed
            assert scores == sorted(scores, reverse=True)


def test_a_split_with_a_file_of_its_own_is_not_mixed_with_training(settings, file, tmp_path, caplog):
    more = (f"data.test_path={tmp_path / 'test.jsonl'}",)
    row = {"query": "what is a test", "documents": ["a test", "a rank"], "labels": [1, 0]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    run(settings("scored.jsonl", *more))
    assert set(read(tmp_path / "scored.jsonl")) == {each["query"] for each in rows()}
    assert "test queries have files of their own, and are not written" in caplog.text
    run(settings("test_scored.jsonl", *more, "split=test"))
    assert set(read(tmp_path / "test_scored.jsonl")) == {row["query"]}


def test_an_embedder_gives_similarities(settings, tiny_bert_dir, tmp_path):
    from sentence_transformers import SentenceTransformer

    run(settings("scored.jsonl", "model=bi_encoder", model=tiny_bert_dir))
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    for row in list(read(tmp_path / "scored.jsonl").values())[:5]:
        texts = [f"{row.get('prompt', '')}{row['query']}", *row["documents"]]
        query, *documents = model.encode(texts, normalize_embeddings=True)
        np.testing.assert_allclose(row["scores"], [query @ document for document in documents], atol=1e-5)


def test_a_killed_command_goes_on_to_the_same_bytes(settings, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(scored_lists.BLOCK_PAIRS, "pairs", 8)
    run(settings("whole.jsonl"))
    write, written = scored_lists._write, []

    def killed(folder: Path, number: int, *rest: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append((folder.name, number))
        write(folder, number, *rest)

    monkeypatch.setattr(scored_lists, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(settings("killed.jsonl"))
    assert not (tmp_path / "killed.jsonl").exists()
    again: list[tuple[str, int]] = []

    def noted(folder: Path, number: int, *rest: Any) -> None:
        again.append((folder.name, number))
        write(folder, number, *rest)

    monkeypatch.setattr(scored_lists, "_write", noted)
    with caplog.at_level(logging.WARNING):
        run(settings("killed.jsonl"))
    assert not set(again) & set(written)
    assert "3 blocks of an earlier command are used" in caplog.text
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def on_ranks(arguments: list[str]) -> None:
    from recipes.negatives import scored_lists as module

    module.BLOCK_PAIRS["pairs"] = 16
    score(load(arguments, "score"))


def test_two_ranks_write_the_same_bytes(settings, tmp_path):
    for ranks in (1, 2):
        run_ranks(on_ranks, ranks, settings(f"{ranks}.jsonl", "token_budget=128"))
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_what_another_model_made_is_not_used(settings, tmp_path, tiny_models, caplog, monkeypatch):
    (other := tmp_path / "other").mkdir()
    tiny_models.write_tiny_bert(other, reranker=True, seed=7)
    run(settings("scored.jsonl"))
    content = (tmp_path / "scored.jsonl").read_bytes()
    with caplog.at_level(logging.WARNING):
        run(settings("scored.jsonl"))
    assert "is there already, made by this model from these data" in caplog.text
    with pytest.raises(ValueError, match=r"was made with another model weights: overwrite=true replaces it"):
        run(settings("scored.jsonl", model=other))
    with pytest.raises(ValueError, match=r"was made with another model length: overwrite=true replaces it"):
        run(settings("scored.jsonl", "model.max_length=16"))
    with pytest.raises(ValueError, match=r"was made with another prompts of the data: overwrite=true replaces it"):
        run(settings("scored.jsonl", "data.query_prompt='find: '"))
    assert (tmp_path / "scored.jsonl").read_bytes() == content
    run(settings("scored.jsonl", "overwrite=true", model=other))
    assert (tmp_path / "scored.jsonl").read_bytes() != content


def test_unfinished_blocks_of_another_model_are_not_used(settings, tmp_path, monkeypatch, caplog):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(scored_lists.BLOCK_PAIRS, "pairs", 8)
        patch.setattr("recipes.negatives.score_run._write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(settings("scored.jsonl", "model.max_length=16"))
    with caplog.at_level(logging.WARNING):
        run(settings("scored.jsonl"))
    assert "is not used: it was made with another model length" in caplog.text
    run(settings("whole.jsonl"))
    assert (tmp_path / "scored.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=null"], r"^output=FILE is missing"),
        (["output=/no/such/folder/x.jsonl"], r"the folder /no/such/folder does not exist"),
        (["output=x.csv"], r"choose a name that ends in .jsonl, .run, .trec"),
        (["output=x.run"], r"rows of a file have no ids"),
        (["depth=0"], r"^depth=0 must be at least 1"),
        (["split=development"], r"has no development split \(it has: "),
        (["model=bm25", "~model.name_or_path", "~model.max_length"], r"bm25 gives no teacher scores"),
    ],
)
def test_mistakes(settings, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(settings("x.jsonl", *arguments))


def test_gzip_has_the_same_bytes_each_time(settings, tmp_path):
    import gzip

    for name in ("one.jsonl.gz", "two.jsonl.gz", "plain.jsonl"):
        run(settings(name))
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.jsonl.gz").read_bytes()) == (tmp_path / "plain.jsonl").read_bytes()
