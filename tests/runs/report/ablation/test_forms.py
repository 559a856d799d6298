"""The results of an ablation with shorter vectors and in fewer bits."""

import json

import pytest
from stored_ablation import METRIC, write_ablation

from evaluation.ablation import compare
from runs.files import json_safe
from runs.report.ablation.forms import forms_table
from runs.report.ablation.page import ablation_part, tables_of
from runs.report.ablation.results import ablation_results
from runs.report.ablation.sentences import print_ablation, sentences

NAMES, SEEDS = ("whole", "nested"), (1, 2, 3)
FORMS = ("int8", "dim8/binary")


def _values(lift):
    """Values by configuration, seed and query: those of the second are higher by `lift`."""
    own = {seed: {query: (query * 7 + seed) % 11 / 20 for query in range(1, 21)} for seed in SEEDS}
    high = {
        seed: {query: value + lift * (1 + query % 3) for query, value in each.items()} for seed, each in own.items()
    }
    return dict(zip(NAMES, (own, high), strict=True))


def _write_forms(folder, plan, forms):
    for job in plan["jobs"]:
        run = folder / job["run"]
        file = run / "runs" / "queries.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for form, values in forms.items():
            own = values.get(job["configuration"], {}).get(job["seed"], {})
            for place, line in enumerate(lines, 1):
                if place in own:
                    line["values"]["after"][f"{METRIC}/{form}"] = own[place]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        summary = json.loads((run / "summary.json").read_text())
        for form, values in forms.items():
            if own := values.get(job["configuration"], {}).get(job["seed"]):
                summary["metrics"]["after"][f"{METRIC}/{form}"] = sum(own.values()) / len(own)
        (run / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def plan(tmp_path):
    plan = write_ablation(tmp_path, _values(0.0))
    _write_forms(tmp_path, plan, {"int8": _values(0.0), "dim8/binary": _values(0.1)})
    return {**plan, "results": json.loads(json.dumps(json_safe(ablation_results(tmp_path, plan))))}


def test_each_form_has_the_tests_of_its_own_values(plan):
    found = plan["results"]["forms"]
    assert list(found) == list(FORMS)
    short = found["dim8/binary"]
    [pair], [test] = short["pairs"], compare(_values(0.1))
    assert (pair["first"], pair["second"]) == NAMES
    assert pair["corrected"] == pytest.approx(test.corrected)
    assert pair["difference"] == pytest.approx(test.test.difference)
    assert (short["best"], short["tied"], short["queries"]) == ("nested", ["nested"], 20)
    assert sorted(found["int8"]["tied"]) == sorted(NAMES)


def test_the_table_has_a_row_for_each_form(plan):
    header, rows = forms_table(plan["results"])
    assert header[0] == f"{METRIC} by stored form"
    assert [row[0] for row in rows] == list(FORMS)
    column = next(place for place, name in enumerate(header) if name.endswith("nested"))
    entry = plan["results"]["forms"]["dim8/binary"]["configurations"]["nested"]
    assert rows[1][column] == f"{entry['mean']:.4f} ± {(entry['high'] - entry['low']) / 2:.4f} best"
    assert rows[1][3 - column].endswith(" worse")


def test_it_is_printed_and_on_the_page(plan, capsys):
    print_ablation(plan)
    printed = capsys.readouterr().out
    assert f"{METRIC} by stored form" in printed
    assert any(line.startswith("by stored form: mean ± half of the 95% interval") for line in sentences(plan))
    assert any("Stored forms" in part for part in ablation_part(plan))
    assert any("stored forms" in each.title for each in tables_of([plan]))


def test_runs_without_forms_have_none(tmp_path, capsys):
    plan = write_ablation(tmp_path, _values(0.0))
    results = ablation_results(tmp_path, plan)
    assert results["forms"] == {}
    print_ablation({**plan, "results": results})
    assert "by stored form" not in capsys.readouterr().out


def test_a_configuration_that_was_not_measured_in_a_form_is_not_compared_there(tmp_path):
    plan = write_ablation(tmp_path, _values(0.0))
    _write_forms(tmp_path, plan, {"int8": {"nested": _values(0.0)["nested"]}})
    results = ablation_results(tmp_path, plan)
    assert list(results["forms"]["int8"]["configurations"]) == ["nested"]
    assert results["forms"]["int8"]["pairs"] == []
    assert {row[1] for row in forms_table(results)[1]} | {row[2] for row in forms_table(results)[1]} > {"-"}
