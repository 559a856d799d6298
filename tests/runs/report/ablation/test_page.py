"""The pictures and the part of the page about an ablation."""

import base64
import json
import re

import pytest
from stored_ablation import write_ablation

from runs.files import write_json
from runs.report.ablation.page import ablation_part, first_pair, plans_of
from runs.report.ablation.pictures import figures_of
from runs.report.ablation.results import ablation_results
from runs.report.comparison.compare import compare
from runs.report.comparison.curves import pictures_of
from runs.report.comparison.selection import select

ALT = re.compile(r'alt="([^"]*)"')


def _plan(folder, number, *, seeds=2, search=False, long=False):
    """An ablation of `number` configurations, the later the better and the slower."""
    key = "trainer.learning_rate" if long or search else "lr"
    names = [f"{key}={place + 1}e-05" + ", data.<b>=1" * long for place in range(number)]
    if search:
        names = [f"trial {place} ({name})" for place, name in enumerate(names)]
        (folder / "search.journal").write_text("")
    values = {
        name: {
            seed: {f"q{q}": 0.1 + place / 100 + (q * 7 + place * 3 + seed) % 5 / 50 for q in range(6)}
            for seed in range(seeds)
        }
        for place, name in enumerate(names)
    }
    overrides = {name: [f"{key}={place + 1}e-05", f"loss={'ab'[place % 2]}"] for place, name in enumerate(names)}
    plan = write_ablation(folder, values, failed=[("<i>", 1)], overrides=overrides)
    return {**plan, "results": ablation_results(folder, plan)}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return _plan(tmp_path_factory.mktemp("few"), 3)


def test_pictures_say_in_words_what_they_show(plan):
    seeds, cost = map(str, figures_of(plan["results"]))
    [said] = ALT.findall(seeds)
    for place, name in enumerate(["lr=3e-05", "lr=2e-05", "lr=1e-05"], 1):
        assert f"{place} {name}: {plan['results']['configurations'][name]['mean']:.4f}" in said
    [said] = ALT.findall(cost)
    assert "on the front: 1, 2, 3" in said  # the better, the slower
    assert "3 lr=1e-05: 10 s" in said


def test_colours_of_light_and_dark_pages_differ(plan):
    light, dark = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", figures_of(plan["results"])[0])[::-1]
    assert b"#0b62c4" in base64.b64decode(light)
    assert b"#0b62c4" not in base64.b64decode(dark)


def test_the_part_of_the_page_has_all_and_escapes_names(plan):
    text = "".join(ablation_part(plan))
    assert "<i>" not in text
    assert "&lt;i&gt;, seed 1" in text
    assert "the &lt;loss&gt; is not finite" in text
    titles = re.findall(r"<h2>([^<]*)</h2>", text)
    shown = ["Ablation", "Configurations", "Pictures", "All pairs", "Runs without a result"]
    assert titles == [*shown, "Settings of the configurations"]
    assert text.count("<tr>") == (1 + 4) + (1 + 3) + (1 + 1) + (1 + 1 + 4)
    assert not re.findall(r"(?:src|href|srcset)=\"(?!data:)", text)


def test_before_any_result_the_part_says_what_failed(tmp_path):
    plan = write_ablation(tmp_path, {}, failed=[("a", 1)])
    text = "".join(ablation_part(plan))
    assert "no run has a result yet" in text
    assert "a, seed 1" in text
    assert "<figure>" not in text


@pytest.mark.parametrize("number", [1, 40])
def test_one_configuration_and_forty(tmp_path, number):
    plan = _plan(tmp_path, number, seeds=1, long=True)
    seeds, *others = figures_of(plan["results"])
    assert len(others) == (number > 1)
    heights = re.findall(r'height="([\d.]+)pt"', _svg(seeds))
    assert float(heights[0]) >= 72 * 0.25 * number
    assert "data.&lt;b&gt;" in "".join(ablation_part(plan))


def _svg(figure):
    [_, code] = re.findall(r"base64,([A-Za-z0-9+/=]+)", figure)
    return base64.b64decode(code).decode()


def test_a_search_shows_each_setting(tmp_path):
    plan = _plan(tmp_path, 6, seeds=1, search=True)
    said = [ALT.findall(figure)[0] for figure in figures_of(plan["results"])]
    assert said[2].startswith("Dev nDCG@10 of each trial (circles), and the best so far, from 0.")
    assert said[3] == "Dev nDCG@10 by trainer.learning_rate (blue: the best; rank correlation +1.00), 6 trials"
    assert said[4] == "Dev nDCG@10 by loss (blue: the best), 6 trials"
    assert "Trials" in "".join(ablation_part(plan))


@pytest.mark.parametrize("name", [r"p=$\foo$", "a $x, b y$", "模型 größe"])
def test_names_are_drawn_as_they_are(tmp_path, name, recwarn):
    """`$` begins no formula, and letters that matplotlib's font lacks are left to the browser."""
    values = {each: {1: {"q1": 0.1 + place / 10, "q2": 0.3}} for place, each in enumerate([name, "plain"])}
    plan = write_ablation(tmp_path, values)
    seeds, *_ = figures_of(ablation_results(tmp_path, plan))
    assert (f">2 {name}</text>" in _svg(seeds)) == ("模" in name)
    assert f"2 {name}: 0.2" in ALT.findall(seeds)[0]
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_the_page_shows_the_tests_of_the_ablation_alone_and_the_best_beside_the_baseline(tmp_path):
    plan = _plan(tmp_path, 3)
    write_json(tmp_path / "ablation.json", plan)
    comparison = compare(select([tmp_path]), first_pair([plan]))
    assert "Paired tests" not in [table.title for table in comparison.results]
    shown = [comparison.queries.rankings[place].label for place in comparison.queries.first]
    assert shown == ["1 lr=1e-05, seed 0: after", "5 lr=3e-05, seed 0: after"]
    without = compare(select([tmp_path])).queries
    assert [without.rankings[place].label for place in without.first] == [shown[0], "3 lr=2e-05, seed 0: after"]


def test_curves_are_those_of_each_configuration_first(tmp_path):
    plan = _plan(tmp_path, 15)
    write_json(tmp_path / "ablation.json", plan)
    for job in plan["jobs"]:
        lines = [{"step": step, "split": "train", "loss": 0.5} for step in (1, 2)]
        if job["status"] == "finished":
            (tmp_path / job["run"] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pictures, [note] = pictures_of(select([tmp_path]))
    assert {curve.name.partition(",")[0] for curve in pictures[0].curves} == {f"lr={n}e-05" for n in range(1, 16)}
    assert len(pictures[0].curves) == 20
    assert note.startswith("the curves are those of 20 runs, one of each configuration first; left out: 12 lr=6e-05")


def test_an_ablation_without_jobs_is_said(tmp_path):
    write_json(tmp_path / "ablation.json", {**write_ablation(tmp_path / "x", {}, failed=[("a", 1)]), "jobs": []})
    with pytest.raises(ValueError, match="the ablation has no jobs yet"):
        plans_of([tmp_path])


def test_of_one_configuration_the_page_shows_a_pair_of_its_runs(tmp_path):
    plan = _plan(tmp_path, 1)
    write_json(tmp_path / "ablation.json", plan)
    first, second = compare(select([tmp_path]), first_pair([plan])).queries.first
    assert first != second
