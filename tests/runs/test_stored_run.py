"""What is read from the folder of a run, finished or not, and from an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stored_runs import write_run

from runs.stored_run import StoredRun


def test_a_finished_run_has_everything(tmp_path: Path) -> None:
    run = StoredRun.read(write_run(tmp_path / "mine", {"q1": 0.5, "q2": 1.0}, steps=3))
    assert (run.name, run.finished, run.error()) == ("mine", True, None)
    assert run.config["eval"]["metric"] == "nDCG@10"
    assert run.environment["data"]["fingerprint"] == "abc"
    assert [line["step"] for line in run.metrics() if line["split"] == "train"] == [1, 2, 3]
    assert list(run.queries()) == ["q1", "q2"]
    assert run.queries()["q2"]["values"]["after"] == {"nDCG@10": 1.0}


def test_a_killed_run_has_what_it_wrote(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "killed", {}, steps=2, finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"no": "step"}\n{"step": 3, "spl')
    (folder / "traceback.txt").write_text("Traceback ...\n  line\nValueError: loss is not finite\n\n")
    run = StoredRun.read(folder)
    assert (run.summary, run.finished) == (None, False)
    assert max(line["step"] for line in run.metrics()) == 2
    assert run.queries() == {}
    assert run.error() == "ValueError: loss is not finite"
    (folder / "runs" / "queries.jsonl").write_text('{"query_id": "q"}\n')  # killed before it wrote its summary
    assert StoredRun.read(folder).queries() == {}
    (folder / "summary.json").write_text("{}")
    assert StoredRun.read(folder).queries() == {"q": {"query_id": "q"}}
    assert StoredRun.read(folder).error() is None, "it has been resumed to its end"


def test_texts_may_hold_any_character(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"q": 1.0}, texts={"q": "x"})
    line = {"query_id": "q", "text": "a\u2028b\x85c \u4f60\u597d", "values": {}, "documents": {}}
    (folder / "runs" / "queries.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert StoredRun.read(folder).queries()["q"]["text"] == line["text"]


def test_an_evaluation_is_a_run_without_settings(tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text(json.dumps({"metric": "MAP", "metrics": {"bm25": {"MAP": 0.5}}, "bm25": 0.5}))
    (tmp_path / "new.queries.jsonl").write_text(json.dumps({"query_id": "7", "bm25": {"MAP": 0.5}}) + "\n")
    run = StoredRun.read(tmp_path / "new.json")
    assert (run.name, run.config, run.environment, run.metrics()) == ("new", {}, {}, [])
    assert run.queries() == {"7": {"query_id": "7", "text": "", "values": {"bm25": {"MAP": 0.5}}, "documents": {}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such folder"),
        ("folder", "is no run: it has no config.yaml: give outputs/RUN"),
        ({"sets": {"scifact": {}}}, r"is a suite: give the file of one of its data sets, such as x.scifact.json"),
        ({"a": 1}, "has no results of launch/evaluate.py"),
        ([], "has no results of launch/evaluate.py"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        StoredRun.read(path)
    assert "\n" not in str(error.value)


def test_what_is_given_in_the_place_of_a_run_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs" / "b", {"q": 1.0})
    (page := tmp_path / "report.html").write_text("<html>")
    (broken := tmp_path / "x.json").write_text("nonsense")
    for path, message in (
        (tmp_path / "outputs", r"outputs is no run: .* give the runs in it, such as .*outputs/b$"),
        (page, r"report.html is a file that is not a .json: give outputs/RUN"),
        (broken, r"x.json is broken \(.*\): give outputs/RUN"),  # not `resume=none`: it is no run
    ):
        with pytest.raises(ValueError, match=message):
            StoredRun.read(path)
