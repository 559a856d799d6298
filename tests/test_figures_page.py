"""docs/figures.md shows what the ablations of docs/figures/ hold."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def make_figures() -> Any:
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "docs" / "make_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_and_its_pictures_are_up_to_date(make_figures: Any) -> None:
    plans = make_figures.load()
    text = make_figures.PAGE.read_text(encoding="utf-8")
    assert make_figures.page(plans, text) == text, "run: python docs/make_figures.py"
    stored = {file.name: file.read_text() for file in make_figures.PICTURES.glob("figures_*.svg")}
    assert stored == make_figures.pictures(plans)


def test_every_ablation_is_finished_and_shown_once_with_its_command(make_figures: Any) -> None:
    text = make_figures.PAGE.read_text(encoding="utf-8")
    for name, plan in make_figures.load().items():
        assert text.count(f"<!-- figures: {name} -->") == 1
        assert f"+ablation={name}" in text.replace(" \\\n        ", " "), name
        assert all(job["status"] == "finished" for job in plan["jobs"]), name
        if not name.endswith("_rates"):
            assert len(plan["seeds"]) >= 3, name


def test_a_row_of_each_ablation_was_run_again_and_is_within_the_spread(make_figures: Any) -> None:
    for name, plan in make_figures.load().items():
        rows = make_figures.again(name)
        assert rows or name.endswith("_rates"), f"{name}: no row was run a second time"
        for row in rows:
            low, high = plan["results"]["configurations"][row["name"]]["range"]
            first = make_figures.values_of(plan["results"]["configurations"][row["name"]])
            assert all(abs(value - first[seed]) <= high - low for seed, value in row["values"].items()), name


def test_the_sentence_of_a_second_run(make_figures: Any) -> None:
    plan = {"results": {"configurations": {"one": {"seeds": [{"seed": 1, "value": 0.5}, {"seed": 2, "value": 0.25}]}}}}
    assert make_figures.again_sentence(plan, {"name": "one", "values": {2: 0.26}}) == (
        "a second run of one: 0.2600 (seed 2; first 0.2500)"
    )


def test_the_ablations_hold_no_paths_of_a_machine(make_figures: Any) -> None:
    for file in make_figures.FIGURES.rglob("*.json"):
        assert not re.search(r'"[^"]*(?<![\w.])/(work|home|root|tmp|mnt)/', file.read_text()), file.name


def test_an_ablation_with_other_data_and_dimensions_has_three_tables(make_figures: Any) -> None:
    entry = {
        "mean": 0.5,
        "interval": [0.4, 0.6],
        "counts": "queries and seeds",
        "spread": 0.01,
        "range": [0.49, 0.51],
        "before": 0.4,
        "best_dev": 0.5,
        "seconds": 9.0,
        "tokens_per_s": 100.0,
        "metrics": {"nDCG@10": 0.5},
        "peak_memory_bytes": 2**30,
        "seeds": [{"seed": 1, "value": 0.5, "seconds": 9.0, "stopped_at": None}],
        "unfinished": [],
    }
    on_set = {"mean": 0.3, "low": 0.2, "high": 0.4, "std": None, "seeds": {"1": 0.3}}
    cranfield = {
        "queries": 7,
        "first_stage": 0.2,
        "best": "one",
        "tied": [],
        "configurations": {"one": on_set},
        "pairs": [],
    }
    results = {
        "metric": "nDCG@10",
        "queries": 9,
        "best": "one",
        "tied": [],
        "first_stage": 0.3,
        "least": None,
        "configurations": {"one": entry},
        "pairs": [],
        "left_out": [],
        "search": None,
        "warnings": [],
        "test_suite": {"cranfield": {**cranfield, "warnings": []}},
        "forms": {"dim32": {**cranfield, "warnings": []}},
    }
    text = make_figures.generated("name", {"baseline": "one", "results": results, "jobs": []})
    assert "| nDCG@10 on other data | cranfield |" in text
    assert "| 1 one | 0.3000 ± 0.1000 |" in text
    assert "| nDCG@10 by stored form | 1 one |" in text
    assert "| dim32 | 0.3000 ± 0.1000 |" in text
    assert "assets/figures_name.svg" in text


def test_the_costs_of_models_stand_beside_their_quality(make_figures: Any, tmp_path: Path, monkeypatch: Any) -> None:
    values = {"query_ms_p50": 12.3456, "query_ms_p95": 20.0, "documents_per_s": 1234.5, "index_bytes": 8_000_000}
    verdicts = {"one-seed1/model": {"values": values}, "bm25": {"values": {**values, "documents_per_s": None}}}
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs" / "name.json").write_text(json.dumps({"decision": {"verdicts": verdicts}}))
    monkeypatch.setattr(make_figures, "FIGURES", tmp_path)
    configurations = {
        "two": {"mean": 0.75, "interval": [0.7, 0.8], "seconds": 30.0, "seeds": [], "unfinished": []},
        "one": {"mean": 0.5, "interval": [0.4, 0.6], "seconds": 9.0, "seeds": [], "unfinished": []},
    }
    plan = {"name": "name", "results": {"metric": "nDCG@10", "search": None, "configurations": configurations}}
    measured = make_figures.costs("name")
    head, rows = make_figures.costs_table(plan, measured)
    assert len(head) == len(rows[0])
    assert rows == [["2 one", "12.3", "20", "1,234", "8 MB"], ["bm25", "12.3", "20", "-", "8 MB"]]
    with pytest.raises(KeyError):  # a configuration that was not measured is not left out of the picture
        make_figures.costs_picture(plan, measured)
    assert "</svg>" in make_figures.costs_picture(plan, {**measured, "two": values})
    assert make_figures.costs("other") == {}
