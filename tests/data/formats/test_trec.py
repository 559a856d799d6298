import json
import re
from pathlib import Path

import pytest

from data.formats.trec import read_run, write_trec_run


def test_what_was_written_reads_back(tmp_path: Path):
    run = {"q1": {"a": 0.1, "b": 1 / 3, "c": -2.0}, "q2": {"a": 1e-30}}
    write_trec_run(tmp_path / "x.run", run, tag="mine")
    assert (tmp_path / "x.run").read_text().splitlines()[0] == "q1 Q0 b 1 0.3333333333333333 mine"
    assert read_run(tmp_path / "x.run") == run


def test_a_run_is_replaced_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "x.run"
    write_trec_run(path, {"q1": {"a": 1.0}}, tag="mine")
    for run, tag, what in (
        ({"q1": {"a": 2.0}, "q 2": {"a": 1.0}}, "mine", "query id 'q 2'"),
        ({"q1": {"a": 2.0, "b\tc": 1.0}}, "mine", "document id 'b\\tc'"),
        ({"q1": {"": 2.0}}, "mine", "document id ''"),
        ({"q1": {"a": 2.0}}, "my tag", "tag 'my tag'"),
    ):
        message = f"{path}: {what} must not be empty or contain white space (TREC run files)"
        with pytest.raises(ValueError, match=re.escape(message)):
            write_trec_run(path, run, tag)
    with pytest.raises(AttributeError):
        write_trec_run(path, {"q1": {"a": 2.0}, "q2": None}, tag="mine")  # type: ignore[dict-item]
    assert [file.name for file in tmp_path.iterdir()] == ["x.run"]
    assert read_run(path) == {"q1": {"a": 1.0}}
    write_trec_run(path, {"q1": {"a": 2.0}}, tag="mine")
    assert read_run(path) == {"q1": {"a": 2.0}}


def test_teacher_scores(tmp_path: Path):
    rows = [{"query_id": 1, "document_ids": ["a", 7], "scores": [0.5, 2]}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_run(tmp_path / "x.jsonl") == {"1": {"a": 0.5, "7": 2.0}}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("x.run", "q1 Q0 b 1 0.5", "x.run:2: expected 6 columns (qid Q0 docid rank score tag), got 5"),
        ("x.run", "q1 Q0 b 0.5 one tag", "x.run:2: the score (column 5) must be a number, got 'one'"),
        ("x.run", "q1 Q0 b 1 nan tag", "x.run:2: the score of document 'b' is nan; scores must be finite"),
        ("x.run", "q1 Q0 a 2 0.4 tag", "x.run:2: document 'a' occurs twice for query 'q1'; keep one"),
        ("x.jsonl", '{"query_id": "q1"}', "x.jsonl:2: no key 'document_ids' (it has: 'query_id')"),
        (
            "x.jsonl",
            '{"query_id": "q2", "document_ids": ["a"], "scores": []}',
            "x.jsonl:2: 1 document_ids but 0 scores",
        ),
        (
            "x.jsonl",
            '{"query_id": "q2", "document_ids": ["a"], "scores": ["1"]}',
            "x.jsonl:2: scores must be numbers, got '1'",
        ),
    ],
)
def test_errors_name_the_line(tmp_path: Path, name: str, line: str, message: str):
    first = '{"query_id": "q1", "document_ids": ["a"], "scores": [1]}' if "json" in name else "q1 Q0 a 1 0.5 tag"
    (tmp_path / name).write_text(f"{first}\n{line}\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_run(tmp_path / name)
