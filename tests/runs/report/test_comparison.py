"""The content of a page of several runs: results, tests, curves, wins and losses, differences, warnings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stored_runs import write_run

from evaluation.significance import interval_of, paired_test
from runs.report.comparison import queries as by_query
from runs.report.comparison.compare import compare
from runs.report.comparison.content import Comparison, Table
from runs.report.comparison.overlay import DASHES, MARKERS, draw_picture
from runs.report.comparison.selection import select

ONE = {"q1": 0.2, "q2": 0.4, "q3": 0.9, "q4": 0.5}
TWO = {"q1": 0.7, "q2": 0.4, "q3": 0.1, "q4": 0.8}


def compared(*paths: Path) -> Comparison:
    return compare(select(paths))


def table_of(comparison: Comparison, title: str) -> Table:
    found = [table for table in (*comparison.results, *comparison.facts) if table.title == title]
    assert len(found) == 1, [table.title for table in (*comparison.results, *comparison.facts)]
    return found[0]


def rows_of(comparison: Comparison, title: str) -> dict[str, list[str]]:
    return {row[0]: list(row[1:]) for row in table_of(comparison, title).rows}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("two")
    options = {"loss": {"temperature": 2.0}, "output_dir": "elsewhere"}
    return compared(write_run(folder / "one", ONE), write_run(folder / "two", TWO, settings=options))


def test_results_have_the_intervals_and_tests_of_the_statistics(two: Comparison) -> None:
    table = table_of(two, "Results: nDCG@10 on test")
    assert list(table.header) == ["run", "first stage", "before", "after", "fused", "test"]
    assert table.rows[1][0] == "2 two"
    assert table.rows[1][3] == str(interval_of([TWO]))
    assert table.top == {(0, 3), (1, 3)}
    test = paired_test(ONE, TWO)
    row = rows_of(two, "Paired tests")["2 two vs 1 one: after"]
    assert row == [
        f"{test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}]", f"{test.p_value:.3f}", "4", "2", "1", "1"
    ]  # fmt: skip


def test_settings_that_differ_are_listed_alone(two: Comparison) -> None:
    assert rows_of(two, "Settings that differ") == {"loss.temperature": ["1.0", "2.0"]}
    assert "eval.metric" in rows_of(two, "Settings that all runs share")
    assert two.warnings == []
    assert rows_of(two, "Cost")["1 one"][:4] == ["finished", "10", "1 min 1 s", "12.5"]


def test_wins_and_losses_of_every_pair(two: Comparison) -> None:
    assert two.queries is not None
    labels = [ranking.label for ranking in two.queries.rankings]
    assert labels[:4] == ["1 one: first stage", "1 one: before", "1 one: after", "1 one: fused"]
    assert [labels[place] for place in two.queries.first] == ["1 one: after", "2 two: after"]
    pair = two.queries.pairs[two.queries.first]
    assert (pair.queries, pair.won, pair.lost, pair.tied) == (4, 2, 1, 1)
    assert pair.difference == pytest.approx(sum(TWO.values()) / 4 - sum(ONE.values()) / 4)
    assert len(two.queries.pairs) == 8 * 7 // 2
    assert two.queries.listed[0] == "q3"


def test_of_many_queries_those_that_differ_most_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_query, "MAX_QUERIES", 2)
    monkeypatch.setattr(by_query, "MAX_RANKINGS", 3)
    runs = [write_run(tmp_path / name, values) for name, values in (("one", ONE), ("two", TWO))]
    queries = compared(*runs).queries
    assert queries is not None
    assert list(queries.listed) == ["q3", "q1"]
    assert len(queries.texts) == 4
    assert [ranking.label for ranking in queries.rankings] == ["1 one: after", "2 two: after"]
    assert queries.pairs[0, 1].queries == 4


def test_one_run_is_compared_with_its_start(tmp_path: Path) -> None:
    comparison = compared(write_run(tmp_path / "one", ONE))
    assert comparison.queries is not None
    labels = [ranking.label for ranking in comparison.queries.rankings]
    assert [labels[place] for place in comparison.queries.first] == ["1 one: first stage", "1 one: after"]
    assert "Settings" in [table.title for table in comparison.facts]


def test_other_data_code_and_queries_are_said_loudly(tmp_path: Path) -> None:
    write_run(tmp_path / "one", ONE)
    write_run(tmp_path / "two", {"q2": 0.4, "q3": 0.1, "q9": 0.8}, data="other", texts={"q3": "another question"})
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    environment |= {"code_hash": "beef", "git": {"revision": "e" * 40, "dirty": True}}
    (tmp_path / "two" / "environment.json").write_text(json.dumps(environment))
    comparison = compared(tmp_path / "one", tmp_path / "two")
    warnings = "\n".join(comparison.warnings)
    assert (
        "the data differ, so the results cannot be compared as they are: docs abc (run 1); docs other (run 2)"
        in warnings
    )
    assert "the code differs, so a difference may come from it: code c0de (run 1); code beef (run 2)" in warnings
    assert "the code of run 2 is no commit" in warnings
    assert "the test queries differ, and only common ones are compared" in warnings
    tests = table_of(comparison, "Paired tests")
    assert any("on the 1 queries that both have, of 3 and 4" in note for note in tests.notes), tests.notes
    assert comparison.queries is not None
    assert "q3 (2)" in comparison.queries.texts, "another text, so another query"
    environment_rows = rows_of(comparison, "Environment, and what differs in it")
    assert environment_rows["code_hash"] == ["c0de", "beef"]


def test_shares_of_the_same_data_by_seed_are_no_other_data(tmp_path: Path) -> None:
    shares = {"one": (0.2, "whole"), "two": (0.2, "whole"), "three": (0.2, "other")}
    for name, (share, whole) in shares.items():
        write_run(tmp_path / name, ONE, data=f"of {name}", settings={"train_share": share})
        file = tmp_path / name / "summary.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "whole_data_hash": whole}))
    assert not [line for line in compared(tmp_path / "one", tmp_path / "two").warnings if "the data differ" in line]
    [line] = [line for line in compared(*(tmp_path / name for name in shares)).warnings if "the data differ" in line]
    assert "0.2 of the training queries of docs whole (runs 1, 2)" in line


def test_runs_that_searched_other_documents_are_not_compared(tmp_path: Path) -> None:
    for name, key in {"one": "x", "two": "y"}.items():  # as many of as many, but others
        file = write_run(tmp_path / name, ONE) / "summary.json"
        part = {"documents": 5, "of": 9, "hash": key}
        file.write_text(json.dumps({**json.loads(file.read_text()), "partial": part, "searched": part}))
    comparison = compared(tmp_path / "one", tmp_path / "two")
    assert any("different documents were searched" in line and "5 of 9 (run 2)" in line for line in comparison.warnings)
    [note] = table_of(comparison, "Paired tests").notes
    assert note.endswith("not compared: they searched different documents (eval.max_documents, data.path)")


def test_runs_without_a_common_query_are_not_compared(tmp_path: Path) -> None:
    comparison = compared(write_run(tmp_path / "one", {"q1": 0.5}), write_run(tmp_path / "two", {"q2": 0.5}))
    notes = table_of(comparison, "Paired tests").notes
    assert "2 two vs 1 one: after, not compared: they have no test query in common" in notes


def test_an_unfinished_and_a_failed_run_are_shown_with_what_they_have(tmp_path: Path) -> None:
    write_run(tmp_path / "one", ONE)
    write_run(tmp_path / "stopped", {}, steps=4, finished=False)
    write_run(tmp_path / "failed", {}, steps=2, finished=False)
    (tmp_path / "failed" / "traceback.txt").write_text("...\nValueError: token=hf_abcdefghijklmnopqrst is wrong\n")
    comparison = compared(tmp_path / "one", tmp_path / "stopped", tmp_path / "failed")
    assert comparison.lead == "3 runs, 2 not finished"
    assert "not finished: 2 stopped (last step 4)" in comparison.warnings
    assert "3 failed: failed, last step 2: ValueError: token=*** is wrong" in comparison.warnings
    assert rows_of(comparison, "Results: nDCG@10 on test")["2 stopped"] == ["", "0.2000", "", "", "not finished"]
    loss = next(picture for picture in comparison.pictures if picture.title == "Loss")
    assert [curve.number for curve in loss.curves] == [1, 2, 3]


def test_stages_are_marked_and_their_rankings_can_be_chosen(tmp_path: Path) -> None:
    stages = {"grpo": 4, "preference": 6}
    run = write_run(tmp_path / "three", ONE, stages=stages)
    for number, name in enumerate(stages, 1):
        write_run(run / "stages" / f"{number}-{name}", TWO)
    comparison = compared(run)
    assert comparison.queries is not None
    assert "1 three: after grpo" in [ranking.label for ranking in comparison.queries.rankings]
    assert [row[0] for row in table_of(comparison, "Stages of 1 three").rows] == ["start", "grpo", "preference"]
    assert [list(curve.parts) for curve in comparison.pictures[0].curves] == [["grpo", "preference"]]
    own = compared(run / "stages" / "1-grpo", run / "stages" / "2-preference")
    assert list(own.legend.values()) == ["three/1-grpo", "three/2-preference"]


def test_names_are_unique_and_a_path_counts_once(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / place / "run", ONE) for place in ("a", "b")]
    assert [run.name for run in select([*paths, paths[0] / ".." / "run"])] == ["a/run", "b/run"]


def test_evaluations_and_old_runs_have_what_their_files_say(tmp_path: Path) -> None:
    run = write_run(tmp_path / "old", ONE)
    shutil.rmtree(run / "runs")
    values = {"query_id": "q1", "bm25": {"nDCG@10": 0.5}, "model": {"nDCG@10": 0.7}}
    summary: dict[str, Any] = {"metric": "nDCG@10", "bm25": 0.5, "model": 0.7, "data": "docs", "test_queries": 1}
    summary |= {"metrics": {"bm25": {"nDCG@10": 0.5}, "model": {"nDCG@10": 0.7}}}
    summary |= {"intervals": {"model": {"nDCG@10": [0.6, 0.8]}}}
    (tmp_path / "new.json").write_text(json.dumps(summary))
    (tmp_path / "new.queries.jsonl").write_text(json.dumps(values) + "\n")
    comparison = compared(run, tmp_path / "new.json", write_run(tmp_path / "mine", ONE))
    results = rows_of(comparison, "Results: nDCG@10 on test")
    assert "0.7000 [0.6000, 0.8000]" in results["2 new"]
    notes = table_of(comparison, "Paired tests").notes
    assert "1 old: values of single queries are not stored" in notes
    assert "3 mine vs 2 new: after vs model" in rows_of(comparison, "Paired tests")
    assert table_of(comparison, "Settings that differ").notes == ["2 new: not recorded"]


def test_other_metrics_have_a_table_of_their_own(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "one", ONE), write_run(tmp_path / "two", TWO, metric="MRR@10")]
    comparison = compared(*runs)
    titles = [table.title for table in comparison.results]
    assert titles[:2] == ["Results: nDCG@10 on test", "Results: MRR@10 on test"]
    assert any("judged by different metrics" in warning for warning in comparison.warnings)


def test_twenty_curves_have_twenty_styles_and_a_small_picture(tmp_path: Path) -> None:
    assert len({(MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)]) for place in range(20)}) == 20
    paths = [write_run(tmp_path / f"run{place}", {}, steps=300, finished=False) for place in range(22)]
    comparison = compared(*paths)
    assert comparison.picture_notes == ["the curves are those of the first 20 runs; left out: 21 run20, 22 run21"]
    loss = next(picture for picture in comparison.pictures if picture.title == "Loss")
    drawn = draw_picture(loss)
    assert len(drawn) < 500_000
    assert "by step: run 1, run 2" in drawn
