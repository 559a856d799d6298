"""Stored vectors: the same bytes on any number of ranks and after a kill, never read for another key."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.store.texts import write_texts
from engines.distributed.testing import run_ranks
from inference import vector_files
from inference.encode import embed, tokenize_texts
from inference.quantize import quantize, ranges_of
from inference.runner import ModuleRunner
from inference.vector_files import lock_of, release, workspace_of
from inference.vectors import StoredVectors, encode_texts
from models.int8_ranges import Int8Ranges

CPU = torch.device("cpu")
WORDS = "ab abb abbb bbc ccc cca acb bca dd abcd dcba a b".split()  # noqa: SIM905
TEXTS = {f"d{i}": " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 2 + i % 7)) for i in range(61)}
KEY = {"weights": "w", "length": "16", "precision": "fp32", "code": "c"}
PRECISIONS = ("fp32", "fp16", "int8", "binary")


class Tokenizer:
    """One token per character; queries end with a 7. It counts the texts that it reads, and cuts after 16 tokens."""

    padding = {"input_ids": 0}  # noqa: RUF012
    layout = "texts"

    def __init__(self) -> None:
        self.num_texts = 0

    def __call__(self, texts, role, prompt=""):
        self.num_texts += len(texts)
        end = [7] if role == "query" else []
        rows = [[ord(character) % 32 for character in prompt + text] + end for text in texts]
        return {"input_ids": [row[:16] for row in rows], "truncated": [[0, max(len(row) - 16, 0)] for row in rows]}


class Model(nn.Module):
    """The mean of random vectors of the tokens: 12 dimensions, with values of both signs."""

    similarity = "cosine"

    def __init__(self, kill_at: int = -1, scale: float = 1.0) -> None:
        super().__init__()
        self.table = torch.randn(32, 12, generator=torch.Generator().manual_seed(3)) * scale
        self.calls, self.kill_at = 0, kill_at

    def forward(self, input_ids, attention_mask):
        self.calls += 1
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"embedding": (self.table[input_ids] * attention_mask[:, :, None]).sum(1)}


def encode(folder: Path, texts=TEXTS, *, model=None, tokenizer=None, key=KEY, **options) -> StoredVectors:
    options = {"role": "document", "token_budget": 64, "block_rows": 8, **options}
    runner = ModuleRunner(model or Model(), CPU)
    return encode_texts(runner, tokenizer or Tokenizer(), texts, folder, key=key, **options)


def expected(texts=TEXTS, dim=None, similarity="cosine") -> np.ndarray:
    tokens = tokenize_texts(Tokenizer(), list(texts.values()), "document", [None] * len(texts))
    vectors = embed(ModuleRunner(Model(), CPU), tokens, Tokenizer(), 64)[:, :dim]
    return (torch.nn.functional.normalize(vectors, dim=-1) if similarity == "cosine" else vectors).numpy()


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def encode_all(folder: Path) -> None:
    for precision in PRECISIONS:
        encode(folder / precision, precision=precision, dim=9)
    encode(folder / "sample", precision="int8", calibration=20)


def test_two_and_three_ranks_write_the_bytes_of_one(tmp_path: Path):
    encode_all(tmp_path / "1")
    for size in (2, 3):
        run_ranks(encode_all, size, tmp_path / str(size))
        for name in (*PRECISIONS, "sample"):
            assert content(tmp_path / str(size) / name) == content(tmp_path / "1" / name)
    assert sorted(content(tmp_path / "2" / "fp32")) == ["ids.jsonl", "ids.offsets.npy", "meta.json", "vectors.npy"]
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == sorted((*PRECISIONS, "sample"))


def test_int8_takes_the_ranges_that_the_model_was_trained_with(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    model = Model()
    own = np.stack([np.full(12, -0.4), np.linspace(0.3, 0.5, 12)]).astype(np.float32)
    model.int8_ranges = Int8Ranges({12: torch.from_numpy(own), 5: torch.tensor([[-1.0] * 5, [1.0] * 5])})
    stored = encode(tmp_path / "own", precision="int8", model=model)
    assert np.array_equal(stored.stored, quantize(expected(), "int8", own))
    assert np.array_equal(stored.ranges, own)
    assert "12 dimensions, int8 in the ranges of the model, 0.0 MiB" in caplog.text
    assert stored.meta["ranges_of"] == "the model"
    cut = encode(tmp_path / "cut", precision="int8", model=model, dim=5)
    assert np.array_equal(cut.ranges, [[-1.0] * 5, [1.0] * 5])
    for name, options in {"other dim": {"dim": 7}, "asked": {"calibration": len(TEXTS)}}.items():
        other = encode(tmp_path / name, precision="int8", model=model, **options)
        assert other.meta["ranges_of"] == "61 texts"
        assert np.array_equal(other.ranges, ranges_of(expected(dim=options.get("dim"))))
    assert encode(tmp_path / "sample", precision="int8", model=model, calibration=9).meta["ranges_of"] == "9 texts"
    assert encode(tmp_path / "fp32", model=model).meta["ranges_of"] is None
    with pytest.raises(ValueError, match="has vectors of another calibration"):
        encode(tmp_path / "own", precision="int8", replace=False)


def encode_and_die(folder: Path, precision: str, kill_at: int) -> None:
    encode(folder, precision=precision, model=Model(kill_at=kill_at))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path: Path, precision: str):
    whole = content(encode(tmp_path / "whole", precision=precision).folder)
    with pytest.raises(RuntimeError, match="died with exit code -9"):
        run_ranks(encode_and_die, 2, tmp_path / "out", precision, 9)
    assert not (tmp_path / "out").exists()
    markers = workspace_of(tmp_path / "out") / "blocks"
    done = len(list(markers.glob("*.npy")))
    assert 0 < done < 8
    tokenizer = Tokenizer()
    assert content(encode(tmp_path / "out", precision=precision, tokenizer=tokenizer).folder) == whole
    assert tokenizer.num_texts <= 1 + len(TEXTS) - 8 * (done - 1), "what is done is not encoded again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_kill_while_the_folder_is_put_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = content(encode(tmp_path / "whole").folder)
    with monkeypatch.context() as patch:
        patch.setattr(vector_files, "_sync", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encode(tmp_path / "out")
    tokenizer = Tokenizer()
    assert content(encode(tmp_path / "out", tokenizer=tokenizer).folder) == whole
    assert tokenizer.num_texts == 1


def test_vectors_are_those_of_the_model_in_every_precision(tmp_path: Path):
    vectors = expected()
    floats = np.array(encode(tmp_path / "fp32").stored)
    for precision in PRECISIONS:
        stored = encode(tmp_path / precision, precision=precision)
        assert np.array_equal(stored.stored, quantize(floats, precision, ranges_of(floats)))
        assert np.array_equal(np.load(tmp_path / precision / "vectors.npy"), stored.stored)
        assert len(stored) == len(stored.ids) == len(TEXTS)
        assert (stored.dim, stored.similarity, stored.precision) == (12, "cosine", precision)
        assert torch.cat([stored.block(part.start, part.stop) for part in stored.slices(7, 2**20)]).equal(
            stored.block(0, 61)
        )
        assert stored.rows([60, 3]).equal(torch.stack([stored.block(60, 61)[0], stored.block(3, 4)[0]]))
    blocks = {precision: StoredVectors(tmp_path / precision).block(0, 61).numpy() for precision in PRECISIONS}
    assert np.allclose(blocks["fp32"], vectors, atol=1e-6)
    assert np.allclose(blocks["fp16"], vectors, atol=1e-3)
    assert np.allclose(blocks["int8"], vectors, atol=0.01)
    assert np.array_equal(blocks["binary"], np.where(vectors > 0, 1.0, -1.0))
    assert StoredVectors(tmp_path / "fp32").meta["truncated"] == sum(len(text) > 16 for text in TEXTS.values()) > 0


def test_the_ranges_of_int8_are_those_of_all_vectors_or_of_a_sample(tmp_path: Path):
    vectors = np.array(encode(tmp_path / "fp32").stored)
    stored = encode(tmp_path / "all", precision="int8")
    assert np.array_equal(np.array(stored.meta["ranges"], np.float32), ranges_of(vectors))
    sample = encode(tmp_path / "sample", precision="int8", calibration=20)
    rows = [number * 61 // 20 for number in range(20)]
    assert np.allclose(sample.ranges, ranges_of(vectors[rows]), atol=1e-6)
    assert np.array_equal(sample.stored, quantize(vectors, "int8", sample.ranges))
    every = encode(tmp_path / "every", precision="int8", calibration=61)
    assert content(every.folder) == content(stored.folder), "a sample of all is no sample"


def test_first_dimensions_have_unit_length_again_under_cosine_alone(tmp_path: Path):
    assert np.allclose(encode(tmp_path / "cosine", dim=5).stored, expected(dim=5), atol=1e-6)
    model = Model()
    model.similarity = "dot"
    stored = encode(tmp_path / "dot", dim=5, model=model)
    assert np.allclose(stored.stored, expected(dim=5, similarity="dot"), atol=1e-5)
    assert stored.similarity == "dot"
    with pytest.raises(ValueError, match=r"dim=13: the model's embeddings have 12 dimensions, choose 1 to 12"):
        encode(tmp_path / "more", dim=13)


def test_prompts_of_all_texts_or_of_each(tmp_path: Path):
    written = encode(tmp_path / "written", {name: "ab" + text for name, text in TEXTS.items()})
    assert np.array_equal(encode(tmp_path / "one", prompts="ab").stored, written.stored)
    each = ["ab" if number % 3 else None for number in range(61)]
    stored = encode(tmp_path / "each", prompts=each)
    rows = np.array([prompt is not None for prompt in each])
    assert np.allclose(stored.stored[rows], written.stored[rows], atol=1e-6)
    assert np.allclose(stored.stored[~rows], expected()[~rows], atol=1e-6)


def test_a_folder_that_is_there_is_opened(tmp_path: Path):
    first, tokenizer = encode(tmp_path / "out"), Tokenizer()
    times = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    encode(tmp_path / "out", tokenizer=tokenizer)
    assert tokenizer.num_texts == 0
    assert {file: file.stat().st_mtime_ns for file in first.folder.iterdir()} == times
    stored = write_texts(tmp_path / "texts", TEXTS.items())
    encode(tmp_path / "out", stored, tokenizer=tokenizer)
    assert tokenizer.num_texts == 0, "the same texts, memory-mapped"


DIFFERENCES = [
    ({"key": {**KEY, "weights": "x", "architecture": "y"}}, "another model (other weights)"),
    ({"key": {**KEY, "length": "17"}}, "another maximum length"),
    ({"key": {**KEY, "precision": "bf16"}}, "a model that ran in another precision"),
    ({"key": {**KEY, "code": "d"}}, "another version of this code or its libraries"),
    ({"texts": {**TEXTS, "d7": "ab"}}, "other texts"),
    ({"prompts": "ab"}, "another prompt before the texts"),
    ({"role": "query"}, "another role of the texts"),
    ({"precision": "fp16"}, "another precision"),
    ({"dim": 5}, "another number of dimensions"),
]


@pytest.mark.parametrize(("options", "words"), DIFFERENCES)
def test_vectors_of_another_key_are_never_read_and_a_line_says_why(tmp_path: Path, caplog, options: dict, words: str):
    folder = encode(tmp_path / "out").folder
    before = content(folder)
    with pytest.raises(ValueError) as refused:
        encode(folder, **options, replace=False)
    assert str(refused.value) == f"{folder} has vectors of {words}: choose another folder, or remove it"
    assert content(folder) == before
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        made = encode(folder, **options)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"{folder} has vectors of {words}: they are not read, and are made again"
    assert len(lines) == 2, "the other says what is encoded"
    assert content(made.folder) == content(encode(tmp_path / "fresh", **options).folder) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out"]


def test_an_unfinished_folder_of_another_key_is_never_gone_on_with(tmp_path: Path, caplog):
    with pytest.raises(RuntimeError, match="died with exit code -9"):
        run_ranks(encode_and_die, 1, tmp_path / "out", "fp32", 9)
    other = {**KEY, "weights": "x"}
    with caplog.at_level(logging.WARNING):
        stored = encode(tmp_path / "out", key=other, dim=3)
    assert "what was begun is of another model (other weights): it is not used, and is made again" in caplog.text
    assert content(stored.folder) == content(
        encode(tmp_path / "fresh", key=other, model=Model(scale=2.0), dim=3).folder
    )


def test_ids_may_hold_anything(tmp_path: Path):
    names = ["a b", "line\nbreak", "é\u2028", "", '"', "漢字"]
    stored = encode(tmp_path / "out", dict.fromkeys(names, "ab"))
    assert list(stored.ids) == names
    assert stored.ids[-1] == "漢字"
    assert stored.ids[1:3] == names[1:3]
    assert [json.loads(line) for line in (tmp_path / "out" / "ids.jsonl").read_bytes().splitlines()] == names
    with pytest.raises(IndexError):
        stored.ids[6]


def test_what_a_user_has_there_is_left_alone(tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert len(encode(folder)) == 61, "an empty folder is none"
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match=r"mine holds no stored vectors .*: it is left alone, choose another folder"):
        encode(folder)
    assert content(folder) == {"thesis.txt": b"x"}
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ValueError, match="it is left alone"):
        encode(file)


@pytest.mark.parametrize("name", ["vectors.npy", "ids.jsonl", "ids.offsets.npy"])
def test_a_broken_folder_is_named(tmp_path: Path, name: str):
    folder = encode(tmp_path / "out").folder
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"out is broken \(.*\): remove it, and make it again"):
        encode(folder)


def test_a_full_disk_is_one_line_before_anything_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(vector_files.shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    tokenizer = Tokenizer()
    with pytest.raises(ValueError) as refused:
        encode(tmp_path / "out", tokenizer=tokenizer)
    assert str(refused.value) == (
        f"{tmp_path} has no space for out: 61 vectors of 12 dimensions need 0.0 MiB, 0.0 MiB are free: free some, "
        "choose another folder, or a smaller precision"
    )
    assert tokenizer.num_texts == 1, "of which the number of dimensions is known"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot take space in advance")
def test_a_quota_is_found_before_anything_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fallocate(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(vector_files.os, "posix_fallocate", fallocate)
    with pytest.raises(ValueError, match=r"has no space for out: 61 vectors of 12 dimensions need 0\.0 MiB"):
        encode(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path):
    lock = lock_of(tmp_path / "out")
    with pytest.raises(RuntimeError, match="out is being made by another process: wait until it ends, or stop it"):
        run_ranks(encode_alone, 1, tmp_path / "out")
    release(lock)
    assert len(encode(tmp_path / "out")) == 61


def encode_alone(folder: Path) -> None:
    encode(folder)


def test_a_vector_that_is_not_finite_names_its_text(tmp_path: Path):
    model = Model()
    model.similarity = "dot"
    model.table[ord("d") % 32] = float("nan")
    first = next(name for name, text in TEXTS.items() if "d" in text[:16])
    with pytest.raises(ValueError, match=f"the embedding of '{first}' is not finite in fp32: check the weights"):
        encode(tmp_path / "out", model=model)
    model = Model(scale=1e5)
    model.similarity = "dot"
    with pytest.raises(ValueError, match="is not finite in fp16: choose fp32"):
        encode(tmp_path / "half", model=model, precision="fp16")


def test_nothing_to_encode(tmp_path: Path):
    with pytest.raises(ValueError, match="there are no texts to encode"):
        encode(tmp_path / "out", {})
