import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.cache import remove
from data.candidates import NoCandidates
from data.collection import Collection
from data.formats import beir
from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.formats.row_error import RowError
from data.sampling.list_options import ListOptions
from data.sampling.training_lists import TrainingLists
from data.source import SourceOptions
from data.store import build as module
from data.store.lists import StoredLists
from data.store.texts import StoredTexts


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], **prompts: str) -> Mapping[str, list[list[int]]]:
        return {"input_ids": [[len(query), *map(ord, text[:9])] for text in documents]}


def in_memory(options: SourceOptions) -> Collection:
    return options.build()


def stored(options: SourceOptions, monkeypatch: pytest.MonkeyPatch, apart: bool = False) -> Collection:
    """The stored collection, made in this process, which is quicker, or `apart`, as in a run."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "STORED_FROM", 0)
        if not apart:
            patch.setattr(module, "_build_apart", module.build_here)
        collection = options.build()
    assert isinstance(collection.documents, StoredTexts)
    return collection


def plain(collection: Collection) -> dict[str, object]:
    """The content, in its order."""
    parts: dict[str, object] = {"documents": list(collection.documents.items()), "excluded": collection.excluded}
    for name in ("name", "fingerprint", "missing", "available", "keep_queries_without_positives", "in_batch", "node"):
        parts[name] = getattr(collection, name)
    for name, split in collection.splits.items():
        parts[name] = {
            "queries": list(split.queries.items()),
            "qrels": [(query, list(judged.items())) for query, judged in split.qrels.items()],
            "candidates": repr(list(split.candidates.items())),  # as text, since nan is not nan
            "labels": [(query, list(judged.items())) for query, judged in split.labels.items()],
            "prompts": dict(split.prompts),
            "weights": dict(split.weights),
            "own": {query: set(own) for query, own in split.own_documents.items()},
            "other": (split.degrees, split.ranked, split.listed),
        }
    return parts


def assert_same_batches(one: Collection, other: Collection) -> None:
    first, second = (TrainingLists(each, Tokenizer(), list_size=5, seed=3, options=each.lists) for each in (one, other))
    assert len(first) == len(second) > 0
    for index in range(len(first)):
        for epoch in range(3):
            expected, found = first[epoch, index], second[epoch, index]
            assert (expected.query_id, expected.document_ids) == (found.query_id, found.document_ids)
            for name in ("labels", "teacher_scores", "document_hashes", "never_negatives"):
                np.testing.assert_array_equal(getattr(expected, name), getattr(found, name))
            assert first.unique_texts().of_list(epoch, index) == second.unique_texts().of_list(epoch, index)


def test_a_stored_beir_collection_is_that_of_the_memory(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tiny / "qrels" / "other.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td7\t1\n")
    with (tiny / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "copy", "text": "wing and heat number0"}) + "\n")
    with (tiny / "qrels" / "test.tsv").open("a") as file:
        file.write("copy\td0\t1\n")  # its text is that of a training query
    options = BEIRConfig(path=str(tiny), exclude="qrels/other.tsv", cache_dir=str(tmp_path / "cache"))
    expected = in_memory(options)
    said = caplog.messages.copy()
    for _ in range(2):  # made, then opened
        caplog.clear()
        collection = stored(options, monkeypatch, apart=True)
        assert plain(collection) == plain(expected)
        assert_same_batches(expected, collection)
        assert [line for line in said if "BM25: language" not in line] == [
            line for line in caplog.messages if line in said and "BM25: language" not in line
        ]
    assert any("dropped" in line for line in said)


@pytest.mark.parametrize("kind", ["pairs", "graded", "degrees", "scored"])
def test_a_stored_file_is_that_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    rows = [
        {
            "query": f"query {i // 2}",
            "document": f"text {i} of {i % 7}",
            "label": label_of(kind, i),
            "weight": 1 + i % 2,
        }
        | ({"prompt": f"prompt {i // 20}: "} if kind == "graded" else {})
        for i in range(60)
    ]
    if kind == "scored":
        rows = [
            {"query": f"query {i}", "documents": [f"a{i}", f"b{i}", "c"], "scores": [0.5, i, -1]} for i in range(30)
        ]
    (tmp_path / "file.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = FileConfig(path=str(tmp_path / "file.jsonl"), cache_dir=str(tmp_path / "cache"))
    expected, collection = in_memory(options), stored(options, monkeypatch)
    assert plain(collection) == plain(expected)
    assert_same_batches(expected, collection)


def label_of(kind: str, number: int) -> float:
    return {"pairs": number % 2, "graded": number % 4, "degrees": number % 11 / 2.2}.get(kind, 0)


def test_what_changes_the_collection_makes_it_anew(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path / "cache"))
    folders = tmp_path / "cache" / "collections"

    def made() -> int:
        return sum(folder.is_dir() for folder in folders.iterdir())

    stored(options, monkeypatch)
    stored(replace(options, cache_dir=f"{tmp_path}/./cache"), monkeypatch)
    moved = tmp_path / "elsewhere" / "tiny"
    moved.parent.mkdir()
    tiny.rename(moved)
    stored(replace(options, path=str(moved)), monkeypatch)
    assert made() == 1  # where the files lie does not matter
    stored(replace(options, path=str(moved), dev_fraction=0.3), monkeypatch)
    stored(replace(options, path=str(moved), lists=ListOptions(random_fraction=0.2)), monkeypatch)
    assert made() == 3
    with (moved / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "more", "text": "another"}) + "\n")
    stored(replace(options, path=str(moved)), monkeypatch)
    assert made() == 4
    assert sum(path.is_dir() for path in (tmp_path / "cache" / "texts").iterdir()) == 1  # the corpus is the same


def test_mistakes_are_those_of_the_memory(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with (tiny / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d1", "text": "again"}\n')
    options = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="duplicate id 'd1'") as expected:
        in_memory(options)
    with pytest.raises(ValueError, match="duplicate id 'd1'") as found:
        stored(options, monkeypatch, apart=True)
    assert str(found.value) == str(expected.value)
    assert not list((tmp_path / "cache" / "collections").glob("*/collection.json"))


def test_a_line_that_cannot_be_read_is_said_by_the_process_that_reads(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with (tiny / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d1", "text":\n')
    options = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(RowError, match="malformed JSON") as found:
        stored(options, monkeypatch, apart=True)
    assert found.value.where.startswith(f"{tiny}/corpus.jsonl:")


def test_a_relative_cache_and_one_that_was_moved(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    options = BEIRConfig(path=str(tiny), cache_dir="cache")
    expected = plain(in_memory(options))
    assert plain(stored(options, monkeypatch)) == expected
    (tmp_path / "cache").rename(tmp_path / "moved")
    monkeypatch.setattr(module, "_build_apart", None)  # nothing is made again
    with monkeypatch.context() as patch:
        patch.setattr(module, "STORED_FROM", 0)
        assert plain(replace(options, cache_dir="moved").build()) == expected


@pytest.mark.parametrize(
    "broken",
    ["texts/*/part-*.arrow", "texts/*/hashes.npy", "collections/*/collection.json", "collections/*/test/**/*.npy"],
)
@pytest.mark.parametrize("is_cut", [True, False])
def test_files_that_are_broken_are_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, is_cut: bool
):
    cache = tmp_path / "cache"
    options = BEIRConfig(path=str(tiny), cache_dir=str(cache))
    stored(options, monkeypatch)
    file = next(cache.glob(broken))
    file.write_bytes(file.read_bytes()[:20]) if is_cut else file.unlink()
    with pytest.raises(ValueError, match=rf"cache.py remove (tiny-\w+ ){{1,2}}data.cache_dir={cache}") as found:
        stored(options, monkeypatch)
    names = re.findall(r"tiny-\w+(?=.* data.cache_dir)", str(found.value).split("cache.py remove ")[1])
    for name in names:
        remove(cache, name)
    stored(options, monkeypatch)


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from data.formats import beir
from data.formats.beir import BEIRConfig
from data.store import build
build.STORED_FROM = 0
if __name__ == "__main__":
    cache = Path(sys.argv[2])
    def interrupt():
        while not list(cache.glob("texts/.making-*")):
            time.sleep(0.01)
        os.killpg(0, signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        BEIRConfig(path=sys.argv[1], cache_dir=sys.argv[2]).build()
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_a_script_without_a_guard_ends(tiny: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(KILLED.replace('if __name__ == "__main__":', "if True:"))
    command = [sys.executable, str(script), str(tiny), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert "must do it below `if __name__" in process.stderr


def test_an_id_that_is_no_unicode_is_unknown(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path / "cache"))
    assert "\ud800" not in stored(options, monkeypatch).documents


def test_ctrl_c_ends_the_build_without_a_word(write_beir: Callable[..., Path], tmp_path: Path):
    folder = write_beir(train={f"q{i}": {f"d{i}": 1} for i in range(10)})
    with (folder / "corpus.jsonl").open("a") as file:
        file.writelines(json.dumps({"_id": f"more{i}", "text": f"text {i}"}) + "\n" for i in range(100_000))
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), str(folder), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, start_new_session=True)
    assert process.stdout == "interrupted\n"
    assert "Traceback" not in process.stderr
    assert not list((tmp_path / "cache" / "collections").glob("*/collection.json"))


def test_documents_that_were_removed_are_said(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path / "cache"))
    documents = stored(options, monkeypatch).documents
    assert isinstance(documents, StoredTexts)
    documents.folder.rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"lacks its documents: remove it \(launch/cache.py remove tiny-"):
        stored(options, monkeypatch)


def test_no_first_stage(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path / "cache"), candidates=NoCandidates())
    collection = stored(options, monkeypatch)
    assert set(map(len, collection.splits["train"].candidates.values())) == {0}
    assert_same_batches(in_memory(options), collection)
    assert isinstance(collection.splits["train"].qrels, StoredLists)


KILLED = """
import sys
from data.formats import beir
from data.formats.beir import BEIRConfig
from data.cache import remove
from data.candidates import NoCandidates
from data.store import build, texts
build.STORED_FROM, texts.PART_ROWS = 0, 5000
if __name__ == "__main__":
    collection = BEIRConfig(path=sys.argv[1], cache_dir=sys.argv[2], candidates=NoCandidates()).build()
    print(len(collection.documents), collection.fingerprint)
"""


def test_a_build_killed_by_sigkill_goes_on(write_beir: Callable[..., Path], tmp_path: Path):
    folder = write_beir(train={f"q{i}": {f"d{i}": 1} for i in range(10)})
    with (folder / "corpus.jsonl").open("a") as file:
        file.writelines(json.dumps({"_id": f"more{i}", "text": f"text {i}"}) + "\n" for i in range(60_000))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(folder), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(command, env=environment)
    while not (parts := list((tmp_path / "cache").glob("texts/.making-*/*/part-00000.arrow"))):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = parts[0].stat().st_mtime_ns
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.startswith("60040 ")
    [first] = (tmp_path / "cache").glob("texts/*/part-00000.arrow")
    assert first.stat().st_mtime_ns == before  # it was not written again
    assert not list((tmp_path / "cache").glob("texts/.making-*"))


def test_small_data_stay_in_memory(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        collection = BEIRConfig(path=str(tiny), cache_dir=str(tmp_path / "cache")).build()
    assert isinstance(collection.documents, dict)
    assert not any("memory-mapped" in line for line in caplog.messages)


def test_a_stored_collection_of_the_hub_is_that_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    corpus = [{"_id": f"d{i}", "title": f"title {i}", "text": f"wing and heat number{i}"} for i in range(30)]
    asked = [{"_id": f"q{i}", "text": f"number{i}"} for i in range(10)]
    judged = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(10)]
    parts = {
        ("owner/name", "corpus"): {"corpus": datasets.Dataset.from_list(corpus)},
        ("owner/name", "queries"): {"queries": datasets.Dataset.from_list(asked)},
        ("owner/name-qrels",): {
            "train": datasets.Dataset.from_list(judged[:7]),
            "test": datasets.Dataset.from_list(judged[7:]),
        },
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *place: parts[place])
    options = BEIRConfig(path="owner/name", cache_dir=str(tmp_path / "cache"))
    expected = in_memory(options)
    assert isinstance(expected.documents, dict)
    monkeypatch.setattr(beir, "STORED_FROM_ROWS", 0)
    collection = stored(options, monkeypatch)
    assert plain(collection) == plain(expected)
    assert_same_batches(expected, collection)


def test_data_that_were_moved_are_named_where_they_are(
    write_beir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A collection of the cache says the present places; a renamed folder keeps its texts."""
    folder = write_beir(train={f"q{i}": {f"d{i}": 1} for i in range(6)})
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "broken"}\n')
    (folder / "qrels" / "other.tsv").write_text("query-id\tcorpus-id\tscore\n")
    for place in (folder, tmp_path / "elsewhere" / folder.name, tmp_path / "elsewhere" / "renamed"):
        if place != folder:
            place.parent.mkdir(exist_ok=True)
            folder = folder.rename(place)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            options = BEIRConfig(path=str(folder), cache_dir=str(tmp_path / "cache"), on_error="skip")
            found = stored(options, monkeypatch)
        assert [Path(row["where"]).parent for row in found.skipped] == [folder]
        assert f"{folder / 'qrels'}: not read: other.tsv" in caplog.text
        assert f"the first: {folder / 'corpus.jsonl'}" in caplog.text
    assert len([path for path in (tmp_path / "cache" / "texts").iterdir() if path.suffix != ".lock"]) == 1
