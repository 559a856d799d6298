"""Files as people have them: every row is read, or one line names a remedy."""

import bz2
import codecs
import gzip
import json
import logging
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.collection import Collection
from data.formats.delimited import read_delimited
from data.formats.file import FileConfig
from data.formats.text_file import text_lines

ANIMALS = ("heron", "otter", "badger", "lynx", "marten", "stoat", "vole", "shrew")
QUERIES = [f"where does the {animal} live?" for animal in ANIMALS]
HOMES = [f"The {animal} lives in burrow {i}." for i, animal in enumerate(ANIMALS)]
OTHERS = HOMES[3:] + HOMES[:3]
TRIPLETS = list(zip(QUERIES, HOMES, OTHERS, strict=True))


def build(path: Path, **options: Any) -> Collection:
    options = {"dev_fraction": 0.0, "test_fraction": 0.0} | options
    return FileConfig(path=str(path), cache_dir=str(path.parent / "cache"), **options).build()


def content(data: Collection, split: str = "train") -> dict[str, dict[str, int]]:
    """{query: {document: grade}}."""
    chosen = data.splits[split]
    return {
        chosen.queries[query]: {data.documents[document]: grade for document, grade in judged.items()}
        for query, judged in chosen.qrels.items()
    }


ALL = {query: {good: 1, bad: 0} for query, good, bad in TRIPLETS}
PAIRS = {query: {good: 1} for query, good, _ in TRIPLETS}


def jsonl(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


FLAG = [{"query": q, "pos": [p], "neg": [n]} for q, p, n in TRIPLETS]
PASSAGES = [
    {"question": q, "answers": ["short"], "positive_ctxs": [{"title": "", "text": p}], "negative_ctxs": [{"text": n}]}
    for q, p, n in TRIPLETS
]
NAMED = [{"query": q, "positive": p, "negative": n} for q, p, n in TRIPLETS]


def renamed(**names: str) -> str:
    """The triplets as rows of jsonl, with other names of columns."""
    return jsonl([{names[name]: text for name, text in row.items()} for row in NAMED])


JSON = {
    "rows one a line": (".jsonl", jsonl(FLAG)),
    "rows one a line, named json": (".json", jsonl(FLAG)),
    "a list": (".json", json.dumps(FLAG)),
    "a list, indented": (".json", json.dumps(FLAG, indent=1)),
    "a list named jsonl": (".jsonl", "[\n" + ",\n".join(map(json.dumps, FLAG)) + "\n]"),
    "a list inside an object": (".json", json.dumps({"version": "1", "data": FLAG}, indent=2)),
    "columns": (".json", json.dumps(columns_of(FLAG))),
    "columns by pandas": (".json", json.dumps({n: dict(enumerate(c)) for n, c in columns_of(FLAG).items()})),
    "nested": (".jsonl", jsonl([{"id": i, "set": row} for i, row in enumerate(FLAG)])),
    "nested, alone": (".jsonl", jsonl([{"row": row} for row in FLAG])),
    "passages of retrieval": (".jsonl", jsonl(PASSAGES)),
    "tevatron": (
        ".jsonl",
        jsonl(
            [
                {"query_id": 7, "query": q, "positive_passages": [{"text": p}], "negative_passages": [{"text": n}]}
                for q, p, n in TRIPLETS
            ]
        ),
    ),
    "ms-swift": (".jsonl", renamed(query="query", positive="response", negative="rejected_response")),
    "a text and its negative": (".jsonl", renamed(query="question", positive="text", negative="hard_negative_1")),
    "names in capitals": (".jsonl", renamed(query="Query", positive="Positive Passages", negative="Hard Negative")),
    "two columns of negatives": (".jsonl", jsonl([{**row, "negative_ctxs": [], "neg": None} for row in NAMED])),
    "numbered": (
        ".jsonl",
        jsonl([{"anchor": q, "positive": p, "neg_2": None, "negative_1": n} for q, p, n in TRIPLETS]),
    ),
    "NaN for no value": (".jsonl", jsonl([{**row, "neg": float("nan")} for row in NAMED])),
}


@pytest.mark.parametrize("name", JSON)
def test_rows_of_json_are_read_however_they_are_laid_out(name: str, tmp_path: Path):
    suffix, text = JSON[name]
    (tmp_path / f"rows{suffix}").write_text(text)
    assert content(build(tmp_path / f"rows{suffix}")) == ALL


def test_pairs_of_query_and_response_and_sets_of_equal_texts(tmp_path: Path):
    (tmp_path / "swift.jsonl").write_text(jsonl([{"query": q, "response": p} for q, p, _ in TRIPLETS]))
    (tmp_path / "sets.jsonl").write_text(jsonl([{"set": [q, p]} for q, p, _ in TRIPLETS]))
    assert content(build(tmp_path / "swift.jsonl")) == content(build(tmp_path / "sets.jsonl")) == PAIRS
    (tmp_path / "sts.jsonl").write_text(jsonl([{"query": "q", "response": p, "label": i} for i, p in enumerate("ab")]))
    assert content(build(tmp_path / "sts.jsonl")) == {"q": {"a": 0, "b": 1}}


def csv_of(separator: str, index: bool = False, end: str = "\n", blank: str = "") -> str:
    header = (["", "query", "positive", "negative"], ["query", "positive", "negative"])[not index]
    rows = [[str(i), *row] if index else list(row) for i, row in enumerate(TRIPLETS)]
    return end.join([separator.join(row) + blank for row in [header, *rows]]) + end


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.csv", csv_of(",")),
        ("rows.csv", csv_of(";")),
        ("rows.csv", csv_of(",", index=True)),
        ("rows.csv", csv_of(",", index=True).replace(",query", "Unnamed: 0,query", 1)),
        ("rows.csv", csv_of(",", end="\r\n", blank="\r\n")),
        ("rows.csv", csv_of(",") + ",,\n"),
        ("rows.csv", csv_of(",").replace("query,positive", "query, positive", 1)),
        ("rows.csv", csv_of(",", blank=",")),
        ("rows.tsv", csv_of("\t")),
        ("rows.tsv", "\n".join('"' + '"\t"'.join(row) + '"' for row in [("query", "positive", "negative"), *TRIPLETS])),
    ],
    ids=str,
)
def test_separated_values_as_spreadsheets_and_pandas_write_them(name: str, text: str, tmp_path: Path):
    (tmp_path / name).write_text(text, newline="")
    assert content(build(tmp_path / name)) == ALL


def test_blank_lines_inside_a_cell_are_kept(tmp_path: Path):
    text = 'query,positive\n\nq,"first\n\n\nsecond ""quoted"""\n   \nr,z\n'
    (tmp_path / "rows.csv").write_text(text)
    rows = list(read_delimited(tmp_path / "rows.csv"))
    assert [row["positive"] for _, row in rows] == ['first\n\n\nsecond "quoted"', "z"]
    assert [where.rpartition(":")[2] for where, _ in rows] == ["3", "8"]


def test_quotes_of_tsv_are_text_unless_the_file_says_otherwise(tmp_path: Path):
    cells = {
        'say "x': 'say "x',  # MS MARCO: quotes are text
        '"open': '"open',
        '"all"': '"all"',
        '"say ""x"""': 'say "x"',  # pandas: a text with quotes
    }
    for index, (cell, text) in enumerate(cells.items()):
        path = tmp_path / f"{index}.tsv"
        path.write_text(f"query\tpositive\nq\t{cell}\n")
        assert [row["positive"] for _, row in read_delimited(path)] == [text]
    broken = tmp_path / "breaks.tsv"
    broken.write_text('query\tpositive\nq\t"one\n\ntwo"\nr\t"x\ty"\n')
    assert [row["positive"] for _, row in read_delimited(broken)] == ["one\n\ntwo", "x\ty"]
    broken.write_text('query\tpositive\nq\t"one\nr\tx\ty\n')
    with pytest.raises(ValueError, match=r"breaks.tsv:3: expected 2 cells \(query, positive\), got 3"):
        list(read_delimited(broken))


def zstandard(content: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_compressed_files(suffix: str, tmp_path: Path):
    compress = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}[suffix]
    for name, text in (("a.jsonl", jsonl(FLAG)), ("b.json", json.dumps(FLAG)), ("c.csv", csv_of(","))):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(compress(text.encode()))
        assert content(build(path)) == ALL
    if suffix:
        path.write_bytes(compress(csv_of(",").encode() * 999)[:-20])
        with pytest.raises(ValueError, match=rf"c.csv{suffix}:\d+: broken .* file \(.*\); make it again"):
            build(path)


ENCODINGS = {
    "utf-8": "utf-8",
    "utf-8-sig": "utf-8-sig",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "utf-32": "utf-32",
}
MARKS = {"utf-16le": codecs.BOM_UTF16_LE, "utf-16be": codecs.BOM_UTF16_BE}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_byte_order_mark_says_the_encoding(encoding: str, tmp_path: Path):
    for name, text in (
        ("a.csv", "query,positive\nwo?,Käse 奶酪\n"),
        ("b.json", '[{"query": "wo?", "positive": "Käse 奶酪"}]'),
    ):
        (tmp_path / name).write_bytes(MARKS.get(encoding, b"") + text.encode(ENCODINGS[encoding]))
        assert content(build(tmp_path / name)) == {"wo?": {"Käse 奶酪": 1}}


def test_texts_in_other_encodings_are_named(tmp_path: Path):
    path = tmp_path / "a.csv"
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes("query,positive\nq,x\n".encode(encoding))
        name = encoding.replace("16-", "16")
        with pytest.raises(ValueError, match=rf"a.csv:1: not UTF-8 \(it has NUL bytes.*iconv -f {name} -t utf8 .*\)"):
            list(text_lines(path))
    path.write_bytes("query,positive\nq,奶酪\n".encode("gb18030"))
    with pytest.raises(ValueError, match=r"a.csv:2: not UTF-8 .*convert it \(iconv -f latin1 -t utf8 .*\), .* gb18030"):
        list(text_lines(path))


def test_tables_of_arrow_and_saved_data_sets(tmp_path: Path):
    from datasets import Dataset, DatasetDict

    rows = columns_of([{**row, "__index_level_0__": i} for i, row in enumerate(FLAG)])
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))
    Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "splits"))
    Dataset.from_dict(rows).to_pandas().to_feather(tmp_path / "rows.feather")
    for name in ("rows.parquet", "rows.feather", "saved", "splits/train", "splits"):
        assert content(build(tmp_path / name)) == ALL
    (tmp_path / "empty.arrow").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"empty.arrow: not an arrow file \("):
        build(tmp_path / "empty.arrow")


def test_json_beside_other_files_of_a_folder_is_no_data(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(jsonl(FLAG))
    (tmp_path / "statistics.json").write_text('{"rows": 8}')
    assert content(build(tmp_path)) == ALL
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.json").write_text(json.dumps(FLAG))
    (tmp_path / "only" / "dataset_info.json").write_text('{"features": {}}')
    assert content(build(tmp_path / "only")) == ALL


def test_negatives_that_say_nothing_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [
        {"query": "a", "pos": ["x"], "neg": [""]},
        {"query": "b", "pos": ["y", " "], "neg": ["n", None, "  "], "pos_scores": [3, 2], "neg_scores": [1, 0, 0]},
        {"query": "c", "pos": ["Warm Bread"], "neg": ["warm  bread", "WARM BREAD", "m"]},
        {"query": "d", "pos": ["z"], "neg": ["z"]},
        {"query": "e", "pos": ["v"], "neg": ["w"]},
        {"query": "e", "pos": ["W"], "neg": ["k"]},
    ]
    (tmp_path / "rows.jsonl").write_text(jsonl(rows))
    with caplog.at_level(logging.WARNING):
        data = build(tmp_path / "rows.jsonl")
    assert content(data) == {
        "a": {"x": 1},
        "b": {"y": 1, "n": 0},
        "c": {"Warm Bread": 1, "m": 0},
        "d": {"z": 1},
        "e": {"v": 1, "W": 1, "k": 0},
    }
    candidates = data.splits["train"].candidates
    assert [[score for _, score in found] for found in candidates.values()][1] == [3, 1]
    assert set(data.documents.values()) == {"x", "y", "n", "Warm Bread", "m", "z", "v", "W", "k"}
    assert "4 documents without a text are left out of their lists" in caplog.text
    assert "4 negatives are the query or a positive of it (equal up to case and spacing): left out" in caplog.text
    for row in ({"query": "a", "pos": [""], "neg": [" "]}, {"query": "a", "positive": " "}):
        (tmp_path / "no.jsonl").write_text(jsonl([row]))
        with pytest.raises(ValueError, match=r"no.jsonl:1: no value in column 'pos\w*' \(positive\)"):
            build(tmp_path / "no.jsonl")


def test_negatives_that_are_the_query_are_no_comparison(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for rows in (
        [{"query": f"What is bread {i}", "positive": f"food {i}", "negative": f"WHAT is  bread {i}"} for i in range(9)],
        [{"query": f"bread {i}", "documents": [f"food {i}", f"Bread {i}"], "labels": [1, 0]} for i in range(9)],
    ):
        (tmp_path / "rows.jsonl").write_text(jsonl(rows))
        assert build(tmp_path / "rows.jsonl").available == {"positive"}
    assert "9 negatives are the query or a positive of it" in caplog.text
    assert "9 documents of label 0 are the query or a positive of it" in caplog.text


def test_lists_whose_only_negative_is_empty_fill_batches(tmp_path: Path):
    from data.sampling.mixture import make_loader

    (tmp_path / "rows.jsonl").write_text(jsonl([{**row, "neg": [""]} for row in FLAG]))
    data = build(tmp_path / "rows.jsonl")
    assert data.available == {"positive"}

    class Tokenizer:
        def encode_list(self, query: str, documents: list[str], **prompts: Any) -> Mapping[str, list[list[int]]]:
            return {"input_ids": [[1] for _ in [query, *documents]]}

    ranks = {"rank": 0, "world_size": 1, "workers": 0}
    loader = make_loader(data, Tokenizer(), list_size=4, batch_size=8, seed=0, in_batch_negatives=True, **ranks)
    assert len({example.query_id for example in next(iter(loader.iterate(0)))}) == 8


def test_margins_of_a_query_are_one_scale(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"query": "q", "positive": "x", "negative": n, "score": s} for n, s in (("y", 2.5), ("z", 1.0))]
    (tmp_path / "rows.jsonl").write_text(jsonl(rows))
    data = build(tmp_path / "rows.jsonl")
    scores = {data.documents[d]: score for d, score in next(iter(data.splits["train"].candidates.values()))}
    assert (scores["x"] - scores["y"], scores["x"] - scores["z"]) == (2.5, 1.0)
    assert "differ" not in caplog.text
    rows = [{"query": "q", "pos": "x", "neg": "y", "pos_scores": s, "neg_scores": 0} for s in (1, 2)]
    (tmp_path / "rows.jsonl").write_text(jsonl(rows))
    build(tmp_path / "rows.jsonl")
    assert "1 teacher scores differ from an earlier row's of the same query and document" in caplog.text


@pytest.mark.parametrize("order", [("train", "dev", "test"), ("test", "dev", "train")])
def test_files_that_share_a_query_keep_their_own_lists(order: Sequence[str], tmp_path: Path):
    """The list of a query in a split is what the files of that split say, whichever file is read last."""
    for number, split in enumerate(order):
        own = {"query": "shared", "pos": [f"{split} good"], "neg": [f"{split} bad"]}
        rows = [{**row, "query": f"{row['query']} {split}"} for row in FLAG]
        (tmp_path / f"{split}.jsonl").write_text(jsonl([own, *rows] if number else [*rows, own]))
    for held_out in (("dev",), ("test",), ("dev", "test")):
        data = build(
            tmp_path / "train.jsonl", **{f"{split}_path": str(tmp_path / f"{split}.jsonl") for split in held_out}
        )
        owner = held_out[-1]
        assert content(data, owner)["shared"] == {f"{owner} good": 1, f"{owner} bad": 0}
        assert not any("shared" in content(data, split) for split in data.splits if split != owner)
        assert not any("train good" in judged for split in held_out for judged in content(data, split).values())
