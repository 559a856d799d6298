"""Ragged vectors of texts: values and offsets in memory-mapped files, a kill, ranks, search, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_texts import check_blocks_are_kept, check_other_folders_are_left_alone, encode_by
from torch import nn

from engines.distributed.testing import run_ranks
from inference import vector_search
from inference.pieces.ragged import RaggedVectors, encode_ragged
from inference.vector_search import search_stored
from losses.math.similarity import similarity_named
from tensors.ragged import Ragged, concatenate

TEXTS = {f"d{number}": "abcdefghij"[number % 3 :][: number % 7] for number in range(23)}  # d0 has no vector
DIM = 4


class Model(nn.Module):
    """A vector for each token but the first."""

    def __init__(self, wrong: int | None = None, similarity: str = "maxsim"):
        super().__init__()
        self.similarity, self.wrong, self.rows = similarity, wrong, 0
        self.table = nn.Parameter(torch.randn(256, DIM, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids, attention_mask):
        self.rows += len(input_ids)
        is_scored = attention_mask.bool()
        is_scored[:, 0] = False
        values = self.table[input_ids[is_scored]]
        sizes = is_scored.sum(1).cpu()
        if self.wrong is not None and (sizes == self.wrong).any():
            values = values / 0
        return {"embedding": Ragged(values, sizes)}


def encode(folder: Path, model: Model | None = None, key: str = "m", texts=TEXTS, **options) -> RaggedVectors:
    return encode_by(encode_ragged, model or Model(), texts, folder, key=key, **options)


def uncut() -> Ragged:
    table = Model().table.detach()
    rows = [table[list(map(ord, text))] for text in TEXTS.values()]
    return Ragged(torch.cat(rows), torch.tensor([len(row) for row in rows]))


def expected() -> Ragged:
    return similarity_named("maxsim").comparable(uncut())


def assert_same(found: Ragged, wanted: Ragged) -> None:
    assert found.sizes.equal(wanted.sizes)
    torch.testing.assert_close(found.values, wanted.values)


def test_values_and_offsets_lie_in_files_of_numpy(tmp_path):
    found, wanted = encode(tmp_path / "out"), expected()
    values, offsets = (np.load(tmp_path / "out" / f"{name}.npy") for name in ("values", "offsets"))
    assert (values.dtype, offsets.dtype) == (np.float32, np.int64)
    assert offsets.tolist() == wanted.offsets().tolist()
    torch.testing.assert_close(torch.from_numpy(values), wanted.values)
    assert list(found.ids) == list(TEXTS)
    assert (len(found), found.dim, found.similarity, found.key["weights"]) == (len(TEXTS), DIM, "maxsim", "m")
    assert found.nbytes == values.nbytes + offsets.nbytes
    for start, stop in ((0, 1), (0, 23), (3, 9), (22, 23), (5, 5)):
        assert_same(found.block(start, stop), wanted[start:stop])
    for rows in ([], [0], [4, 4, 22, 0, 1]):
        assert_same(found.rows(rows), wanted[torch.tensor(rows, dtype=torch.int64)])
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    again = Model()
    encode(tmp_path / "out", again)
    assert again.rows == 0


def test_fewer_dimensions_and_half_precision(tmp_path):
    cut = similarity_named("maxsim").comparable(uncut(), 3)
    found = encode(tmp_path / "out", dim=3, precision="fp16")
    assert (found.stored.dtype, found.dim, found.precision) == (np.float16, 3, "fp16")
    assert found.block(0, 23).values.equal(cut.values.half().float())
    with pytest.raises(ValueError, match=r"encode.precision=int8: several vectors per text are stored as fp32 or fp16"):
        encode(tmp_path / "other", precision="int8")


def test_texts_without_any_vector(tmp_path):
    found = encode(tmp_path / "out", texts={"a": "", "b": ""})
    assert found.block(0, 2).sizes.tolist() == [0, 0]
    assert search_stored(expected()[1:2], found, 5)[0].tolist() == [[0.0, 0.0]]


def test_blocks_have_so_many_values_or_one_row(tmp_path):
    found = encode(tmp_path / "out")
    for rows, values in ((100, 10**6), (2, 10**6), (100, 8 * DIM), (5, 3 * DIM), (100, 1)):
        parts = found.slices(rows, values)
        assert [row for part in parts for row in range(part.start, part.stop)] == list(range(23))
        for part in parts:
            assert part.stop - part.start <= rows
            assert found.num_values(part) == found.block(part.start, part.stop).values.numel()
            assert found.num_values(part) <= values or part.stop - part.start == 1


@pytest.mark.parametrize("similarity", ["maxsim", "meanmaxsim"])
def test_a_search_in_blocks_finds_what_all_similarities_do(similarity, tmp_path, monkeypatch):
    monkeypatch.setattr(vector_search, "VALUES", 9 * DIM)
    stored = encode(tmp_path / "out", Model(similarity=similarity))
    queries = concatenate([expected()[torch.tensor([6, 0, 2, 5])], expected()[13:20]])
    scores, rows = search_stored(queries, stored, 9, query_block=2)
    matrix = similarity_named(similarity).matrix(queries, expected())
    order = matrix.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(scores, order.values[:, :9])
    torch.testing.assert_close(matrix.gather(1, rows), scores)
    assert rows[1].tolist() == list(range(9))  # a query without vectors: all scores are 0, in the order of the rows


def test_blocks_that_are_done_are_kept_unless_they_are_of_another_model(tmp_path):
    check_blocks_are_kept(encode, Model, 4, len(TEXTS), tmp_path)


def _on_ranks(folder: Path) -> tuple[int, list]:
    model = Model()
    found = encode(folder, model)
    return model.rows, [part.tolist() for part in search_stored(expected()[1:7], found, 5, query_block=2)]


def test_ranks_share_the_blocks_and_write_the_same_bytes(tmp_path):
    alone = _on_ranks(tmp_path / "one")
    both = run_ranks(_on_ranks, 2, tmp_path / "two")
    assert [found for _, found in both] == [alone[1]] * 2
    assert all(rows < alone[0] for rows, _ in both)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    check_other_folders_are_left_alone(encode, "ragged", tmp_path)
    with pytest.raises(ValueError, match=r"has vectors of another precision"):
        encode(tmp_path / "out", precision="fp16")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    (tmp_path / "out" / "meta.json").write_text(json.dumps(meta | {"elements": 5}))
    with pytest.raises(ValueError, match=r"is broken .*: remove it, and make it again"):
        RaggedVectors(tmp_path / "out")
