import gzip
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.collection import Collection
from data.formats.beir import BEIRConfig
from data.sampling.list_options import ListOptions
from data.sampling.training_lists import TrainingLists
from data.store import build as store
from data.store.texts import StoredTexts

SHARED = Path(__file__).parents[4] / "shared" / "data"


def build(path: Path | str, tmp_path: Path, **options: object) -> Collection:
    return BEIRConfig(path=str(path), cache_dir=str(tmp_path / "cache"), **options).build()


def test_a_folder_with_dev_held_out(tiny: Path, tmp_path: Path):
    collection = build(tiny, tmp_path, dev_fraction=0.2)
    assert collection.name == "tiny"
    assert {name: len(split.queries) for name, split in collection.splits.items()} == {"train": 11, "dev": 3, "test": 6}
    assert collection.documents["d0"].endswith("number0")
    assert collection.split("test").qrels["q15"] == {"d15": 1}
    assert len(collection.split("dev").candidates) == 3
    assert build(tiny, tmp_path, dev_fraction=0.2).fingerprint == collection.fingerprint


def test_gzip_titles_numbers_and_dev_of_its_own(write_beir: Callable[..., Path], tmp_path: Path):
    path = write_beir(train={"q1": {"d1": 1}}, dev={"q2": {"7": 1}}, test={"q3": {"d3": 1}})
    corpus = (path / "corpus.jsonl").read_text() + '{"_id": 7, "title": "A title", "text": "its text", "more": {}}\n'
    (path / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))
    (path / "corpus.jsonl").unlink()
    collection = build(path, tmp_path)
    assert collection.documents["7"] == "A title its text"
    assert [list(split.queries) for split in collection.splits.values()] == [["q1"], ["q2"], ["q3"]]


def test_columns_are_found_by_name(tiny: Path, tmp_path: Path):
    (tiny / "qrels" / "test.tsv").write_text("corpus-id\tscore\tquery-id\nd15\t2\tq15\n")
    assert build(tiny, tmp_path).split("test").qrels == {"q15": {"d15": 2}}


def test_byte_order_marks_are_read_over(tiny: Path, tmp_path: Path):
    before = build(tiny, tmp_path).fingerprint
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"):
        (tiny / name).write_bytes(b"\xef\xbb\xbf" + (tiny / name).read_bytes())
    assert build(tiny, tmp_path).fingerprint == before


def test_excluded_pairs(tiny: Path, tmp_path: Path):
    (tiny / "qrels" / "source_docs.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td9\t1\n")
    assert build(tiny, tmp_path, exclude="qrels/source_docs.tsv").excluded == {"q1": {"d9"}}
    with pytest.raises(
        FileNotFoundError, match=r"data.exclude=qrels/x.tsv: no such file in .* \(found: source_docs.tsv"
    ):
        build(tiny, tmp_path, exclude="qrels/x.tsv")


def test_a_test_split_alone_is_for_evaluation(write_beir: Callable[..., Path], tmp_path: Path):
    collection = build(write_beir(test={"q1": {"d1": 1}}), tmp_path)
    with pytest.raises(ValueError, match=re.escape("data tiny has no train split (it has: test)")):
        TrainingLists(collection, lambda q, d: {}, list_size=8, seed=0, options=ListOptions())


def test_dangling_judgements_are_counted(tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tiny / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq15\td15\t1\nq15\tgone\t1\nnone\td1\t1\n")
    with caplog.at_level(logging.WARNING):
        assert build(tiny, tmp_path).split("test").qrels == {"q15": {"d15": 1}}
    message = "2 of 3 rows name unknown queries or documents and are left out"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: {message} (first {path}:3: query 'q15', document 'gone')"
    ]


@pytest.mark.parametrize(
    ("file", "line", "content", "message"),
    [
        (
            "corpus.jsonl",
            7,
            '{"_id": "x", "text"}',
            "corpus.jsonl:7: malformed JSON (Expecting ':' delimiter at column 20)",
        ),
        ("corpus.jsonl", 7, '{"id": "x", "text": ""}', "corpus.jsonl:7: no key '_id' (it has: 'id', 'text')"),
        (
            "corpus.jsonl",
            7,
            '{"_id": "x", "contents": ""}',
            "corpus.jsonl:7: no key 'text' (it has: '_id', 'contents')",
        ),
        ("corpus.jsonl", 7, '{"_id": "x", "text": null}', "corpus.jsonl:7: 'text' must be of type str, got null"),
        (
            "corpus.jsonl",
            7,
            '{"_id": "x", "title": 1, "text": ""}',
            "corpus.jsonl:7: 'title' must be of type str, got int",
        ),
        ("corpus.jsonl", 7, '{"_id": "d0", "text": "a"}', "corpus.jsonl:7: duplicate id 'd0' (first at "),
        ("queries.jsonl", 3, '{"_id": "q0", "text": "a"}', "queries.jsonl:3: duplicate id 'q0' (first at "),
        (
            "corpus.jsonl",
            7,
            '{"_id": "a b", "text": "a"}',
            "corpus.jsonl:7: _id 'a b' must not be empty or contain white space (TREC run files)",
        ),
        ("queries.jsonl", 3, '{"_id": "", "text": "a"}', "queries.jsonl:3: _id '' must not be empty or contain"),
        ("corpus.jsonl", 7, '{"_id": "", "text": "a"}', "corpus.jsonl:7: _id '' must not be empty or contain"),
        ("corpus.jsonl", 7, '{"_id": "x", "text": "\\ud800"}', "corpus.jsonl:7: 'text' is not valid Unicode (lone"),
        ("queries.jsonl", 3, '{"_id": "x", "text": "\\udfff"}', "queries.jsonl:3: 'text' is not valid Unicode (lone"),
        ("qrels/test.tsv", 2, f"q15\td15\t{10**25}", "test.tsv:2: the score must lie in -1000 ... 1000, got 1e+25"),
        ("qrels/test.tsv", 2, "q15\td15\thigh", "test.tsv:2: the score must be an integer, got 'high'"),
        ("qrels/test.tsv", 2, "q15 d15 1", "test.tsv:2: expected 3 tab-separated columns, got 1: 'q15 d15 1'"),
        (
            "qrels/test.tsv",
            3,
            "q14\td14\t2",
            "test.tsv:3: query 'q14' and document 'd14' are judged twice, 1 and 2; keep",
        ),
        (
            "qrels/test.tsv",
            1,
            "qid\tpid\tlabel",
            "test.tsv:1: expected the header query-id corpus-id score (tab-separated), or no header and TREC's columns "
            "(qid 0 docid grade), got 'qid\\tpid\\tlabel'",
        ),
    ],
)
def test_malformed_files(tiny: Path, tmp_path: Path, file: str, line: int, content: str, message: str):
    lines = (tiny / file).read_text().splitlines()
    lines[line - 1] = content
    (tiny / file).write_text("\n".join(lines))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build(tiny, tmp_path)
    assert "\n" not in str(caught.value)


BAD_ROWS = {  # file -> rows after the good ones, and why each is left out
    "corpus.jsonl": {
        '{"_id": "e1"}': "no key 'text'",
        '{"_id": "e2", "text"': "malformed JSON",
        '{"_id": "d1", "text": "again"}': "duplicate id 'd1'",
        '{"_id": "e 3", "text": "x"}': "must not be empty or contain white space",
    },
    "queries.jsonl": {
        '["q"]': "expected a JSON object",
        '{"_id": "q1", "text": "again"}': "duplicate id 'q1'",
        b'{"_id": "q99", "text": "caf\xe9"}': "not UTF-8",
    },
    "qrels/test.tsv": {
        "q15\td15": "expected 3 tab-separated columns, got 2",
        "q15\td16\tyes": "the score must be an integer",
        "q15\td15\t2": "are judged twice, 1 and 2",
        "q15\td1\t1e9": "the score must lie in",
        "q15\tgone\t1": "is unknown",
    },
}


@pytest.mark.parametrize("is_stored", [False, True])
def test_on_error_skip_leaves_out_wrong_rows(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_stored: bool
):
    expected = build(tiny, tmp_path)
    reasons = []
    for name, rows in BAD_ROWS.items():
        first = len((tiny / name).read_bytes().splitlines()) + 1
        with (tiny / name).open("ab") as file:
            file.writelines(row if isinstance(row, bytes) else row.encode() for text in rows for row in (text, b"\n"))
        reasons += [(f"{tiny / name}:{line}", reason) for line, reason in enumerate(rows.values(), start=first)]
    if is_stored:
        monkeypatch.setattr(store, "STORED_FROM", 0)
        monkeypatch.setattr(store, "_build_apart", store.build_here)
    for _ in range(2):  # made and opened again
        caplog.clear()
        collection = build(tiny, tmp_path, on_error="skip")
        assert isinstance(collection.documents, StoredTexts) == is_stored
        assert collection.fingerprint == expected.fingerprint
        assert [row["where"] for row in collection.skipped] == [where for where, _ in reasons]
        for row, (_, reason) in zip(collection.skipped, reasons, strict=True):
            assert reason in row["error"]
        assert f"tiny: {len(reasons)} rows are left out (data.on_error=skip; listed in skipped" in caplog.text
    with pytest.raises(ValueError, match=re.escape(reasons[0][0])):  # not opened from what a skipping run stored
        build(tiny, tmp_path)


def test_all_documents_are_left_out(tiny: Path, tmp_path: Path):
    (tiny / "corpus.jsonl").write_text('{"_id": 1}\n')
    with pytest.raises(ValueError, match=r"corpus.jsonl:1: no key 'text'"):
        build(tiny, tmp_path, on_error="skip")
    with pytest.raises(ValueError, match=r"^data.on_error=no must be one of stop, skip$"):
        build(tiny, tmp_path, on_error="no")


def test_judgements_of_another_collection(tiny: Path, tmp_path: Path):
    (tiny / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nd15\tq15\t1\n")
    message = "none of its 1 rows names a known query and document"
    with pytest.raises(ValueError, match=rf"test.tsv: {message} \(first .*:2: query 'd15', document 'q15'\); it needs"):
        build(tiny, tmp_path)
    (tiny / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(ValueError, match=r"test.tsv: it is empty; it needs the columns query-id, corpus-id, score"):
        build(tiny, tmp_path)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("corpus.jsonl", r"no corpus.jsonl or corpus.jsonl.gz in .*tiny \(found: qrels, queries.jsonl\)"),
        ("queries.jsonl", r"no queries.jsonl or queries.jsonl.gz in .*tiny \(found: corpus.jsonl, qrels\)"),
        ("qrels/test.tsv", r"no train.tsv, dev.tsv or test.tsv in .*qrels \(it is empty or missing\)"),
    ],
)
def test_missing_files(write_beir: Callable[..., Path], tmp_path: Path, gone: str, message: str):
    path = write_beir(test={"q1": {"d1": 1}})
    (path / gone).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        build(path, tmp_path)


@pytest.mark.parametrize("path", ["no_such_folder", "/no/such/folder", "./no/such"])
def test_a_path_that_is_nothing(path: str, tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"data.path={path}: no such folder, and no hub id (owner/name)")
    ):
        build(path, tmp_path)


HUB = {
    ("BeIR/tiny", "corpus"): {
        "corpus": [{"_id": "d1", "title": "Wing", "text": "flutter"}, {"_id": "2", "title": "", "text": "jet"}]
    },
    ("BeIR/tiny", "queries"): {
        "queries": [{"_id": "1", "title": "", "text": "wing"}, {"_id": "2", "title": "", "text": "jets"}]
    },
    ("BeIR/tiny-qrels", None): {
        "validation": [{"query-id": 1, "corpus-id": "d1", "score": 1}],
        "test": [{"query-id": 2, "corpus-id": 2, "score": 2}],
    },
}


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def load_dataset(name: str, configuration: str | None = None) -> object:
        return HUB[name, configuration]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    collection = build("BeIR/tiny", tmp_path)
    assert collection.documents == {"d1": "Wing flutter", "2": "jet"}
    assert collection.split("dev").qrels == {"1": {"d1": 1}}
    assert collection.split("test").qrels == {"2": {"2": 2}}
    assert collection.split("test").candidates["2"][0][0] == "2"
    with pytest.raises(
        ValueError, match=r"data.exclude=x.tsv needs a local folder, but data.path=BeIR/tiny is a hub id"
    ):
        build("BeIR/tiny", tmp_path, exclude="x.tsv")


def test_the_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def load_dataset(*args: object, **options: object) -> object:
        raise ConnectionError("Couldn't reach the hub\nwith more lines")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    message = (
        "data.path=BeIR/tiny is neither a folder nor BEIR data on the hub (ConnectionError: Couldn't reach the hub)"
    )
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build("BeIR/tiny", tmp_path)
    assert "\n" not in str(caught.value)


def test_scifact(tmp_path: Path):
    if not (SHARED / "scifact").is_dir():
        pytest.skip(f"{SHARED / 'scifact'} is absent")
    collection = build(SHARED / "scifact", tmp_path)
    # 2 of the 809 training queries are also queries of dev or test, by text
    sizes = {name: len(split.queries) for name, split in collection.splits.items()}
    assert sizes == {"train": 726, "dev": 81, "test": 300}
    assert len(collection.documents) == 5183
