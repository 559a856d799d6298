import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.collection import content_hash
from data.store import texts as module
from data.store.texts import StoredTexts, ids_of, rows_of, texts_digest, texts_of, write_rows, write_texts

TEXTS = {f"d{i}": f"text {i} \u6f22\u5b57 \u0639\u0631\u0628\u064a \U0001f600\n" * (i % 3) for i in range(25)} | {
    "": "",
    "\u00e9": "x",
}


@pytest.mark.parametrize("size", [0, 1, 2, 27])
@pytest.mark.parametrize("part_rows", [4, 100])
def test_a_stored_mapping_is_that_of_the_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, part_rows: int
):
    monkeypatch.setattr(module, "PART_ROWS", part_rows)
    monkeypatch.setattr(module, "BATCH", 3)
    expected = dict(list(TEXTS.items())[:size])
    stored = write_texts(tmp_path / "texts", expected.items())
    assert dict(stored) == expected
    assert list(stored) == list(expected)
    assert list(stored.items()) == list(expected.items())
    assert list(stored.values()) == list(expected.values())
    assert len(stored) == size
    assert all(name in stored for name in expected)
    assert "absent" not in stored
    assert 3 not in stored
    with pytest.raises(KeyError, match="absent"):
        stored["absent"]
    assert stored.texts[1:3] == list(expected.values())[1:3]
    assert texts_digest(stored) == texts_digest(expected) == content_hash(expected)
    assert dict(pickle.loads(pickle.dumps(stored))) == expected


def test_rows_and_ids(tmp_path: Path):
    stored, names = write_texts(tmp_path / "texts", TEXTS.items()), ["d3", "", "d0", "d3"]
    for texts in (stored, TEXTS):
        rows = rows_of(texts, names)
        assert [ids_of(texts)[row] for row in rows.tolist()] == names
        assert [texts_of(texts)[row] for row in rows.tolist()] == [TEXTS[name] for name in names]
    assert ids_of(stored)[-1] == "\u00e9"
    with pytest.raises(IndexError):
        ids_of(stored)[len(TEXTS)]


def test_ids_that_share_a_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_hash", len)
    stored = write_texts(tmp_path / "texts", TEXTS.items())
    assert dict(stored) == TEXTS
    assert "d99" not in stored
    assert rows_of(stored, ["d24", "d1"]).tolist() == [24, 1]


def entries(names: list[str], stop: str = "") -> Iterator[tuple[str, str, str]]:
    """Entries until an interruption at the id `stop`."""
    for line, name in enumerate(names, start=1):
        if name == stop:
            raise KeyboardInterrupt
        yield f"file:{line}", name, f"text of {name}"


def test_a_killed_build_goes_on_after_the_last_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PART_ROWS", 4)
    names = [f"d{i}" for i in range(11)]
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "texts", lambda: entries(names, stop="d9"))
    (tmp_path / "texts" / "part-00002.tmp").write_bytes(b"half a file")
    whole = (tmp_path / "texts" / "part-00001.arrow").stat()
    write_rows(tmp_path / "texts", lambda: entries(names))
    assert (tmp_path / "texts" / "part-00001.arrow").stat() == whole, "it is not written again"
    assert dict(StoredTexts(tmp_path / "texts")) == {name: f"text of {name}" for name in names}


def test_an_id_with_two_texts_names_both_places(tmp_path: Path):
    with pytest.raises(ValueError, match=r"file:4: duplicate id 'b' \(first at file:2\); ids must be unique"):
        write_rows(tmp_path / "texts", lambda: entries(["a", "b", "c", "b"]))
    assert not (tmp_path / "texts").exists()


def test_files_are_read_by_datasets(tmp_path: Path):
    """Other tools read the files: they are Arrow's."""
    import pyarrow as pa

    write_texts(tmp_path / "texts", TEXTS.items())
    table = pa.ipc.open_file(tmp_path / "texts" / "part-00000.arrow").read_all()
    assert table.column_names == ["id", "text"]
    assert json.loads((tmp_path / "texts" / "texts.json").read_text())["unique_hashes"]
    assert np.load(tmp_path / "texts" / "hashes.npy").dtype == np.uint64
