"""The results of an ablation on the data sets of its runs' test suite."""

import html
import json

import numpy as np
import pytest
from stored_ablation import METRIC, write_ablation

from benchmarks.ablation_significance import as_values
from evaluation.ablation import compare, estimate
from runs.files import json_safe
from runs.report.ablation.other_sets import sets_table
from runs.report.ablation.page import ablation_part
from runs.report.ablation.results import ablation_results
from runs.report.ablation.sentences import print_ablation, sentences

NAMES = ("bce", "list_net")


def _values(effects, queries, seed):
    """Values of configurations that differ by `effects`, by seed and query."""
    rng = np.random.default_rng(seed)
    table = 0.4 + 0.2 * rng.random((1, 1, queries)) + 0.02 * rng.normal(size=(len(effects), 3, queries))
    drawn = as_values(table + np.array(effects)[:, None, None])
    return {name: dict(enumerate(own.values(), 1)) for name, own in zip(NAMES, drawn.values(), strict=True)}


def _write_sets(folder, plan, sets, note=""):
    """Give the runs of an ablation their values on `sets`."""
    for job in plan["jobs"]:
        run, entries = folder / job["run"], {}
        for name, values in sets.items():
            own = values[job["configuration"]][job["seed"]]
            mean = {METRIC: float(np.mean(list(own.values())))}
            entries[name] = {"queries": len(own), "first_stage": {METRIC: 0.3}, "before": None, "after": mean}
            entries[name]["note"] = note
            lines = [
                {"query_id": query, "text": "", "values": {"after": {METRIC: value}}, "documents": {}}
                for query, value in own.items()
            ]
            file = run / "runs" / "test_suite" / f"{name}.jsonl"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps({**summary, "test_suite": entries}))


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two configurations: bce is better on the runs' own test, worse on `far`, and not told apart on `near`."""
    folder = tmp_path_factory.mktemp("ablation")
    plan = write_ablation(folder, _values([0.1, 0.0], 40, 0))
    sets = {"far": _values([0.0, 0.1], 30, 1), "near": _values([0.0, 0.0], 20, 2)}
    _write_sets(folder, plan, sets)
    return {**plan, "results": json.loads(json.dumps(json_safe(ablation_results(folder, plan)))), "sets": sets}


def test_each_set_has_the_estimates_and_tests_of_its_own_values(plan):
    found = plan["results"]["test_suite"]
    assert list(found) == ["far", "near"]
    for name, own in found.items():
        values = plan["sets"][name]
        assert (own["metric"], own["queries"], own["first_stage"]) == (METRIC, len(values["bce"][1]), 0.3)
        for configuration, seeds in values.items():
            entry, expected = own["configurations"][configuration], estimate(seeds)
            interval = expected.interval
            assert [entry[key] for key in ("mean", "low", "high")] == pytest.approx(
                [interval.mean, interval.low, interval.high]
            )
            assert entry["std"] == pytest.approx(expected.spread)
            means = {str(seed): np.mean(list(each.values())) for seed, each in seeds.items()}
            assert entry["seeds"] == pytest.approx(means)
        [pair], [test] = own["pairs"], compare(values)
        assert (pair["first"], pair["second"]) == (test.first, test.second)
        assert pair["corrected"] == pytest.approx(test.corrected)
    assert (plan["results"]["best"], found["far"]["best"], found["far"]["tied"]) == ("bce", "list_net", ["list_net"])
    assert sorted(found["near"]["tied"]) == sorted(NAMES)


def test_the_table_has_a_column_for_each_set_and_marks_the_best(plan, capsys):
    header, cells = sets_table(plan["results"])
    assert header == ["nDCG@10 on other data", "far", "near"]
    rows = {row[0]: row[1:] for row in cells}
    assert list(rows) == ["1 bce", "2 list_net", "first stage", "queries"]
    entry = plan["results"]["test_suite"]["far"]["configurations"]["list_net"]
    assert rows["2 list_net"][0] == f"{entry['mean']:.4f} ± {(entry['high'] - entry['low']) / 2:.4f} best"
    assert rows["1 bce"][0].endswith(" worse")
    assert sorted(row[1].rpartition(" ")[2] for row in (rows["1 bce"], rows["2 list_net"])) == ["best", "tied"]
    assert rows["first stage"] == ["0.3000", "0.3000"]
    assert rows["queries"] == ["30", "20"]
    assert "on far list_net is better than the best on the runs' own test" in sentences(plan)
    print_ablation(plan)
    assert rows["2 list_net"][0] in capsys.readouterr().out
    page = "".join(ablation_part(plan))
    assert f'<td class="relevant">{html.escape(rows["2 list_net"][0])}</td>' in page
    assert f'<td class="down">{html.escape(rows["1 bce"][0])}</td>' in page


def test_runs_without_a_set_are_left_out_and_other_queries_are_said(tmp_path):
    plan = write_ablation(tmp_path, _values([0.1, 0.0], 10, 0))
    values = _values([0.0, 0.1], 8, 1)
    _write_sets(tmp_path, plan, {"far": values}, note="of its 8 test queries the run has 2 in train")
    for job in plan["jobs"]:
        if job["configuration"] == "bce":
            (tmp_path / job["run"] / "runs" / "test_suite" / "far.jsonl").unlink()
    one = {**plan, "results": ablation_results(tmp_path, plan)}
    assert list(one["results"]["test_suite"]["far"]["configurations"]) == ["list_net"]
    assert sets_table(one["results"])[1][0][1] == "-"
    assert "warning: far: of its 8 test queries the run has 2 in train" in sentences(one)

    values["bce"] = {
        seed: {f"other {query}": value for query, value in own.items()} for seed, own in values["bce"].items()
    }
    _write_sets(tmp_path, plan, {"far": values})
    none = {**plan, "results": ablation_results(tmp_path, plan)}
    assert none["results"]["test_suite"]["far"]["configurations"] == {}
    assert any("far: the runs were evaluated on different test queries" in line for line in sentences(none))
    assert [row[1] for row in sets_table(none["results"])[1]] == ["-", "-", "0.3000", "0"]


def test_an_ablation_without_a_suite_says_nothing_of_other_data(tmp_path):
    plan = write_ablation(tmp_path, _values([0.1, 0.0], 10, 0))
    plan = {**plan, "results": ablation_results(tmp_path, plan)}
    assert plan["results"]["test_suite"] == {}
    assert not [line for line in sentences(plan) if "other data" in line and "mean ±" in line]
    assert "Other data sets" not in "".join(ablation_part(plan))
