"""Sparse vectors of texts: the values that are not 0 in a file of scipy, a kill, ranks, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scipy.sparse
import torch
from torch import nn

from engines.distributed.testing import run_ranks
from inference.pieces.sparse import encode_sparse
from inference.runner import ModuleRunner
from inference.vector_files import workspace_of

TEXTS = {f"d{number}": "x" * (number % 5) + "y" for number in range(11)}


class Tokenizer:
    """One token per character."""

    padding = {"input_ids": 0}  # noqa: RUF012

    def __call__(self, texts, role="", prompt=""):
        return {"input_ids": [[1] * len(prompt + text) for text in texts]}


class Model(nn.Module):
    """Weights of 6 tokens, of which a text has the one that is its length, and the first."""

    similarity = "dot"

    def __init__(self, wrong: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.wrong, self.rows = wrong, 0

    def forward(self, input_ids, attention_mask):
        self.rows += len(input_ids)
        lengths = attention_mask.sum(1)
        found = nn.functional.one_hot(lengths, 6).float()
        found[:, 0] = lengths if self.wrong is None else lengths / (lengths != self.wrong)
        return {"embedding": found}


def encode(folder: Path, model: Model | None = None, key: str = "m", texts=TEXTS):
    runner = ModuleRunner(model or Model(), torch.device("cpu"))
    options = {"role": "document", "token_budget": 12, "key": {"weights": key}, "block_rows": 3}
    return encode_sparse(runner, Tokenizer(), texts, folder, **options)


def expected() -> torch.Tensor:
    lengths = torch.tensor([len(text) for text in TEXTS.values()])
    found = nn.functional.one_hot(lengths, 6).float()
    found[:, 0] = lengths
    return found


def test_a_matrix_of_scipy_holds_what_is_not_0(tmp_path):
    found = encode(tmp_path / "out")
    matrix = scipy.sparse.load_npz(tmp_path / "out" / "vectors.npz")
    assert torch.from_numpy(matrix.toarray()).equal(expected())
    assert matrix.nnz == found.meta["nonzeros"] == 2 * len(TEXTS)
    assert found.nbytes == 2 * len(TEXTS) * 8 + (len(TEXTS) + 1) * 4
    ids = [json.loads(line) for line in (tmp_path / "out" / "ids.jsonl").read_text().splitlines()]
    assert ids == list(TEXTS)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    again = Model()
    encode(tmp_path / "out", again)
    assert again.rows == 0


def test_blocks_that_are_done_are_kept_unless_they_are_of_another_model(tmp_path):
    with pytest.raises(ValueError, match="the vector of 'd4' is not finite"):
        encode(tmp_path / "out", Model(wrong=5))
    assert (workspace_of(tmp_path / "out") / "00000000.npz").is_file()
    same, other = Model(), Model()
    encode(tmp_path / "out", same)
    assert same.rows == len(TEXTS) - 3
    with pytest.raises(ValueError, match="not finite"):
        encode(tmp_path / "other", Model(wrong=5))
    encode(tmp_path / "other", other, key="another")
    assert other.rows == len(TEXTS)


def _on_ranks(folder: Path) -> int:
    model = Model()
    encode(folder, model)
    return model.rows


def test_ranks_share_the_blocks_and_write_the_same_bytes(tmp_path):
    encode(tmp_path / "one")
    assert run_ranks(_on_ranks, 2, tmp_path / "two") == [6 + 1, 5]  # one row more, so that both run the model as often
    for file in (tmp_path / "one").iterdir():
        if file.suffix != ".npz":  # which has the time in it
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    both = [scipy.sparse.load_npz(tmp_path / name / "vectors.npz") for name in ("one", "two")]
    assert (both[0] != both[1]).nnz == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    encode(tmp_path / "out")
    with pytest.raises(ValueError, match=r"has vectors of another model .*choose another folder, or remove it"):
        encode(tmp_path / "out", key="n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no sparse vectors: it is left alone"):
        encode(tmp_path / "mine")
    with pytest.raises(ValueError, match="there are no texts"):
        encode(tmp_path / "none", texts={})
    (tmp_path / "out" / "vectors.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is broken .*: remove it, and make it again"):
        encode(tmp_path / "out")
