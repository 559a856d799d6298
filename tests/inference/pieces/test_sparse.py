"""Sparse vectors of texts: the values that are not 0 in a file of scipy, a kill, ranks, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scipy.sparse
import torch
from stored_texts import check_blocks_are_kept, check_other_folders_are_left_alone, encode_by
from torch import nn

from engines.distributed.testing import run_ranks
from inference.pieces.sparse import encode_sparse

TEXTS = {f"d{number}": "x" * (number % 5) + "y" for number in range(11)}


class Model(nn.Module):
    """Weights of 6 tokens, of which a text has the one that is its length, and the first."""

    similarity = "dot"

    def __init__(self, wrong: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.wrong, self.rows = wrong, 0

    def forward(self, input_ids, attention_mask):
        self.rows += len(input_ids)
        lengths = attention_mask.sum(1) - 1
        found = nn.functional.one_hot(lengths, 6).float()
        found[:, 0] = lengths if self.wrong is None else lengths / (lengths != self.wrong)
        return {"embedding": found}


def encode(folder: Path, model: Model | None = None, key: str = "m", texts=TEXTS, **options):
    return encode_by(encode_sparse, model or Model(), texts, folder, key=key, **{"token_budget": 16} | options)


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
    check_blocks_are_kept(encode, Model, 5, len(TEXTS), tmp_path)


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
    check_other_folders_are_left_alone(encode, "sparse", tmp_path)
    (tmp_path / "out" / "vectors.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is broken .*: remove it, and make it again"):
        encode(tmp_path / "out")
