"""Ranges of int8 on disk: read as they were written, refused if they are none, not used for other vectors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bi_encoder import BiEncoderConfig
from models.int8_ranges import Int8Ranges


def test_they_grow_and_are_kept_only_when_asked():
    ranges = Int8Ranges.start([3, 2])
    assert ranges.dims == (3, 2)
    assert ranges.known() == {}
    rows = {3: torch.tensor([[1.0, -2.0, 0.5], [0.0, 4.0, 0.5]]), 2: torch.tensor([[1.0, 1.0]])}
    joined = ranges.joined(rows)
    assert joined[3].tolist() == [[0.0, -2.0, 0.5], [1.0, 4.0, 0.5]]
    assert ranges.known() == {}
    ranges.keep(joined)
    assert ranges.known()[2].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    more = ranges.joined({3: torch.tensor([[-1.0, 0.0, 0.75]]), 2: torch.zeros(0, 2)})
    assert more[3].tolist() == [[-1.0, -2.0, 0.5], [1.0, 4.0, 0.75]]
    assert torch.equal(more[2], joined[2]), "a step without documents"
    on = Int8Ranges.start([2, 5], ranges)
    assert {*on.known()} == {2}
    assert math.isinf(on.dim_5[0, 0])


def test_they_are_written_and_read(tmp_path: Path):
    ranges = Int8Ranges({4: torch.tensor([[-1.0] * 4, [1.0] * 4]), 2: torch.tensor([[0.0] * 2, [0.5] * 2])})
    ranges.save(tmp_path, 4)
    Int8Ranges.start([3]).save(tmp_path, 4)  # nothing was observed
    assert sorted(file.name for file in tmp_path.iterdir()) == ["int8_ranges.npy", "int8_ranges_dim2.npy"]
    assert np.load(tmp_path / "int8_ranges.npy").dtype == np.float32
    read = Int8Ranges.read(tmp_path, 4)
    assert {dim: value.tolist() for dim, value in read.known().items()} == {
        dim: value.tolist() for dim, value in ranges.known().items()
    }
    assert Int8Ranges.read(tmp_path / "none", 4) is None


def test_those_of_other_vectors_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    np.save(tmp_path / "int8_ranges.npy", np.zeros((2, 6), dtype=np.float32))
    np.save(tmp_path / "int8_ranges_dim3.npy", np.zeros((2, 2), dtype=np.float32))
    np.save(tmp_path / "other.npy", np.zeros(3))
    assert Int8Ranges.read(tmp_path, 4) is None
    assert "int8_ranges.npy is of 6 dimensions, the model gives 4: these ranges are not used" in caplog.text
    assert "int8_ranges_dim3.npy is of 2 dimensions" in caplog.text
    assert Int8Ranges.read(tmp_path, 6).dims == (6,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no numpy",
        np.zeros(4),
        np.zeros((3, 4)),
        np.zeros((2, 0)),
        np.zeros((2, 4), dtype=np.int8),
        np.array([[0.0, math.nan], [1.0, 1.0]]),
        np.array([[0.0, -math.inf], [1.0, 1.0]]),
        np.array([[2.0], [1.0]]),
        np.array([{"a": 1}], dtype=object),
    ],
    ids=range(10),
)
def test_a_broken_file_is_named(tmp_path: Path, content):
    file = tmp_path / "int8_ranges.npy"
    file.write_bytes(content) if isinstance(content, bytes) else np.save(file, content)
    with pytest.raises(ValueError, match=r"int8_ranges\.npy (holds no ranges|cannot be read).*remove it, or export"):
        Int8Ranges.read(tmp_path, 4)


def test_a_model_reads_those_of_its_folder_and_forgets_them(tiny_bert_dir: Path, tmp_path: Path):
    model = BiEncoderConfig(str(tiny_bert_dir)).build(seed=0)
    assert model.int8_ranges is None
    assert not [name for name, _ in model.named_buffers() if "int8" in name]
    model.track_int8_ranges([32, 8])
    model.export(tmp_path / "before")
    assert not list((tmp_path / "before").glob("*.npy")), "nothing was observed"
    assert "int8_ranges" not in (tmp_path / "before" / "README.md").read_text()
    model.int8_ranges.keep({32: torch.tensor([[-0.5] * 32, [0.5] * 32]), 8: torch.tensor([[-1.0] * 8, [1.0] * 8])})
    model.export(tmp_path / "after")
    card = (tmp_path / "after" / "README.md").read_text()
    assert f'ranges=np.load("{tmp_path / "after"}/int8_ranges.npy")' in card
    assert "cut to 8 dimensions, at unit length: int8_ranges_dim*.npy" in card
    read = BiEncoderConfig(str(tmp_path / "after")).build(seed=0)
    assert read.int8_ranges.dims == (32, 8)
    read.track_int8_ranges([])
    assert read.int8_ranges is None
    assert not [name for name in read.state_dict() if "int8" in name]


@pytest.mark.parametrize(
    "option", [{"num_layers": 1}, {"pooling": "cls"}, {"similarity": "dot", "normalize": False}, {"projection": 32}]
)
def test_those_of_other_embeddings_of_the_same_size_are_not_used(
    option, tiny_bert_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A student that is cut from a teacher would widen the teacher's ranges, and store its own values coarsely."""
    model = BiEncoderConfig(str(tiny_bert_dir)).build(seed=0)
    model.track_int8_ranges([32])
    model.int8_ranges.keep({32: torch.tensor([[-0.5] * 32, [0.5] * 32])})
    model.export(tmp_path / "model")
    options = BiEncoderConfig(str(tmp_path / "model"), **option)
    student = options.build(seed=0)
    assert student.int8_ranges is None
    assert f"model.{next(iter(option))}=" in caplog.text
    assert "its int8 ranges are not used" in caplog.text
    student.track_int8_ranges([32])
    student.int8_ranges.keep({32: torch.tensor([[-0.25] * 32, [0.25] * 32])})
    student.export(tmp_path / "student")
    assert options.starting_from(tmp_path / "student").build(seed=0).int8_ranges.dims == (32,)
    same = BiEncoderConfig(str(tmp_path / "model"), pooling="mean", similarity="cosine", normalize=True)
    assert same.build(seed=0).int8_ranges.dims == (32,)
