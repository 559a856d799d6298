"""Texts that differ in a sign are different queries: of splits, shares of a file, sources of a mixture."""

import json
import logging
from pathlib import Path

import pytest

from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.sampling.mixture import MixtureConfig

DIFFERENT = (
    ("for (i = 0; i < n; i++)", "for (i = 0; i > n; i--)"),
    ("is a<b", "is a>b"),
    ("x = x + 1", "x = x - 1"),
    ("list[0]", "list(0)"),
    ("who maintains C++", "who maintains C#"),
    ("what does && mean", "what does || mean"),
    ("5 %", "5 °"),
    ("👍", "👎"),
    ("🇫🇷", "🇩🇪"),
    ("राम कौन था", "रमा कौन थी"),
    ("किताब", "कितीब"),
    ("ป่า", "ป้า"),
    ("กิน", "กัน"),
    ("résumé", "resume"),
    ("the users' names", "the users names"),
    ("the rapist", "therapist"),
    ("是吗\uff1f", "是吗\uff01"),
)
EQUAL = (
    ("What is ATP?", "what IS atp?"),
    ("STRASSE", "straße"),
    ("two  words", "two words"),
    (" a tab\tand a line\n", "a tab and a line"),
    ("\uff43\uff55\uff44\uff41\u3000\uff11\uff12", "CUDA 12"),  # full width
    ("caf\u00e9", "cafe\u0301"),
    ("\ufb01nd the \ufb02ow", "find the flow"),
    ("\uff76\uff9e\uff72\uff84\uff9e", "ガイド"),  # half width
)


def beir(folder: Path, train: list[str], test: list[str]) -> BEIRConfig:
    (folder / "qrels").mkdir(parents=True)
    texts = {f"train{i}": text for i, text in enumerate(train)} | {f"test{i}": text for i, text in enumerate(test)}
    _write(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in texts.items()])
    _write(folder / "corpus.jsonl", [{"_id": name, "text": f"About {text}."} for name, text in texts.items()])
    for split in ("train", "test"):
        rows = [f"{name}\t{name}\t1" for name in texts if name.startswith(split)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return BEIRConfig(path=str(folder), cache_dir=str(folder / "cache"), dev_fraction=0.0)


def file(path: Path, queries: list[str]) -> str:
    _write(path, [{"query": text, "answer": f"About {text}, {number}."} for number, text in enumerate(queries)])
    return str(path)


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def kept_by_every_way(pairs: tuple[tuple[str, str], ...], folder: Path) -> list[list[str]]:
    """The training queries that are kept where the first of each pair is for training, the second in test."""
    train, test = [first for first, _ in pairs], [second for _, second in pairs]
    others = ["one more query", "and another"]
    folders = beir(folder / "beir", train + others, test)
    paths = {"path": file(folder / "train.jsonl", train + others), "test_path": file(folder / "test.jsonl", test)}
    files = FileConfig(**paths, dev_fraction=0.0, cache_dir=str(folder))
    sources = {
        "evaluated": beir(folder / "evaluated", others, test),
        "other": FileConfig(path=paths["path"], test_fraction=0.0, dev_fraction=0.0, cache_dir=str(folder)),
    }
    mixed = MixtureConfig(sources=sources).build().sources["other"]
    return [list(data.split("train").queries.values()) for data in (folders.build(), files.build(), mixed)]


def test_every_sign_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        found = kept_by_every_way(DIFFERENT, tmp_path)
    assert found == [[first for first, _ in DIFFERENT] + ["one more query", "and another"]] * 3
    assert not [record for record in caplog.records if "dropped" in record.getMessage()]


def test_equal_texts_leave_training(tmp_path: Path):
    assert kept_by_every_way(EQUAL, tmp_path) == [["one more query", "and another"]] * 3


def test_shares_of_a_file_keep_equal_texts_together_and_others_apart(tmp_path: Path):
    queries = [text for pair in (*DIFFERENT, *EQUAL) for text in pair]
    data = FileConfig(path=file(tmp_path / "all.jsonl", queries), test_fraction=0.5, cache_dir=str(tmp_path)).build()
    splits = {text: name for name, split in data.splits.items() for text in split.queries.values()}
    assert len(splits) == len(queries)
    assert all(splits[first] == splits[second] for first, second in EQUAL)
    assert any(splits[first] != splits[second] for first, second in DIFFERENT)
