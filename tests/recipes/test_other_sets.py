"""A test suite: what a run measures on other data sets, once, by the same evaluation, and what is said of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from data.formats.trec import read_run
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from recipes import other_sets
from recipes.evaluate.run import evaluate
from recipes.preparation import prepare
from recipes.training_run import train
from runs.loggers.logger import NoLogger
from runs.stored_run import StoredRun

METRIC = "nDCG@10"
STEPS = ["+exp=reranker_contrastive", "trainer.max_steps=3", "trainer.eval_every=3", "trainer.learning_rate=0.5"]


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def sets(tiny_beir_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`new` has a test of new queries, `seen` one of which 4 queries are in the run's train and 2 in its dev, and
    `same` is the run's own data."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("new", "seen", "same"):
        shutil.copytree(tiny_beir_dir, folder / name)
    queries = [json.loads(line) for line in (tiny_beir_dir / "queries.jsonl").read_text().splitlines()]
    write_rows(folder / "new" / "queries.jsonl", [{**row, "text": f"{row['text']} anew"} for row in queries])
    parts = {name: (tiny_beir_dir / "qrels" / f"{name}.tsv").read_text().splitlines() for name in ("train", "dev")}
    test = [*parts["train"][:5], *parts["dev"][1:3]]
    (folder / "seen" / "qrels" / "test.tsv").write_text("\n".join(test) + "\n")
    for name in ("train", "dev"):
        (folder / "seen" / "qrels" / f"{name}.tsv").unlink()
    return folder


def suite(sets: Path, cache: Path, *names: str) -> list[str]:
    listed = ",".join(str(sets / name) for name in names)
    return ["data@test_suite=suite", f"test_suite.sources=[{listed}]", f"test_suite.cache_dir={cache / 'cache'}"]


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def train_here(overrides: list[str]) -> float | None:
    return train(load(overrides))


@pytest.fixture(scope="module")
def trained(
    sets: Path, tiny_overrides: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], list[tuple[dict[str, float], int]]]:
    """The folder of a run on three sets, its settings, and what it has logged."""
    folder, logged = tmp_path_factory.mktemp("run"), []
    settings = [*STEPS, *tiny_overrides(folder), *STEPS[1:], *suite(sets, folder, "new", "seen", "same")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoLogger, "log", lambda self, metrics, step: logged.append((metrics, step)))
        train(load([*settings, "run_name=one"]))
    return folder / "outputs" / "one", settings, logged


def test_each_set_is_measured_as_an_evaluation_of_the_export_measures_it(trained, sets, tmp_path):
    run, _, _ = trained
    summary = summary_of(run)
    assert list(summary["test_suite"]) == ["new", "seen", "same"]
    data = [setting.replace("test_suite", "data") for setting in suite(sets, tmp_path, "new", "seen", "same")][1:]
    model = ["model=cross_encoder", f"model.name_or_path={run / 'model'}", "model.max_length=48"]
    evaluate(load(["data=suite", *data, *model, "eval.depth=8", f"output={tmp_path / 'found.json'}"], "evaluate"))
    found = json.loads((tmp_path / "found.json").read_text())["sets"]
    for name, own in summary["test_suite"].items():
        assert own["queries"] == found[name]["test_queries"]
        assert own["after"] == pytest.approx(found[name]["metrics"]["model"], abs=1e-5)
        assert own["first_stage"] == pytest.approx(found[name]["metrics"]["first_stage"])
    assert summary["test_suite"]["same"]["before"] == pytest.approx(summary["metrics"]["before"])
    assert summary["test_suite"]["new"]["before"] != summary["test_suite"]["new"]["after"], "it has learned something"


def test_values_of_queries_and_rankings_are_stored(trained):
    run, _, logged = trained
    stored = StoredRun.read(run)
    for name, own in summary_of(run)["test_suite"].items():
        queries = stored.queries_of(name)
        assert len(queries) == own["queries"]
        for ranker in ("first_stage", "before", "after"):
            values = [line["values"][ranker][METRIC] for line in queries.values()]
            assert fmean(values) == pytest.approx(own[ranker][METRIC])
        for ranker in ("before", "after"):
            scores = read_run(run / "runs" / "test_suite" / name / f"{ranker}.run")
            for query, line in queries.items():
                best = sorted(scores[query].values(), reverse=True)[:3]
                assert [scores[query][each["id"]] for each in line["documents"][ranker]] == pytest.approx(best)
    assert stored.queries_of("same")["test0"]["values"] == {
        ranker: values
        for ranker, values in stored.queries()["test0"]["values"].items()
        if ranker in ("first_stage", "before", "after")
    }
    new = summary_of(run)["test_suite"]["new"]
    values = [
        (metrics[f"test_suite/new/{METRIC}"], step) for metrics, step in logged if f"test_suite/new/{METRIC}" in metrics
    ]
    assert values == [(new["before"][METRIC], 0), (new["after"][METRIC], 3)]


def test_the_report_and_the_card_show_the_sets_and_what_the_run_has_of_them(trained):
    run, _, _ = trained
    seen = "of its 6 test queries the run has 4 in train, 2 in dev, so its values may be too high"
    own = "its test queries are those of the run's own test, so it says nothing of other data"
    assert [each["note"] for each in summary_of(run)["test_suite"].values()] == ["", seen, own]
    card, page = (run / "model" / "README.md").read_text(), (run / "report.html").read_text()
    value = f"{summary_of(run)['test_suite']['new']['after'][METRIC]:.4f}"
    assert f"seen: {seen}" in card
    assert "<h2>Other data sets</h2>" in page
    row = next(line for line in page.splitlines() if line.startswith("<tr><td>new</td>"))
    assert value in row
    assert value in next(line for line in card.splitlines() if line.startswith("new "))


def test_the_values_are_those_of_two_ranks_and_the_start_is_measured_once_for_all_runs(trained):
    run, settings, _ = trained
    shared = run.parent / ".before"
    before = sorted(place.name for place in shared.iterdir())
    assert len(before) == 1 + 3
    run_ranks(train_here, 2, [*settings, "run_name=two"])
    assert sorted(place.name for place in shared.iterdir()) == before
    for name, own in summary_of(run)["test_suite"].items():
        other = summary_of(run.parent / "two")["test_suite"][name]
        assert other["before"] == own["before"]
        assert other["after"] == pytest.approx(own["after"], abs=1e-4)


def test_a_run_that_is_killed_while_it_measures_gives_the_same(trained, monkeypatch):
    run, settings, _ = trained
    write = other_sets.write_all_queries

    def killed(file: Path, *rest: Any) -> None:
        if file.stem == "seen":
            raise RuntimeError("killed")
        write(file, *rest)

    monkeypatch.setattr(other_sets, "write_all_queries", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(load([*settings, "run_name=cut"]))
    monkeypatch.undo()
    train(load([*settings, "run_name=cut"]))
    assert summary_of(run.parent / "cut")["test_suite"] == summary_of(run)["test_suite"]
    assert StoredRun.read(run.parent / "cut").queries_of("seen") == StoredRun.read(run).queries_of("seen")


def test_stages_are_measured_before_the_first_and_after_the_last(tiny_run, tiny_reranker_dir, sets, tmp_path, capsys):
    more = [
        "trainer.max_steps=1",
        "trainer.eval_every=1",
        "trainer.learning_rate=0.2",
        "stages=[contrastive,preference]",
    ]
    start = f"model.name_or_path={tiny_reranker_dir}"
    train(load(["+exp=reranker_three_stage", *tiny_run, *more, start, *suite(sets, tmp_path, "new", "same")]))
    run = tmp_path / "outputs" / "reranker_three_stage"
    summary = summary_of(run)
    assert "test_suite" not in summary_of(run / "stages" / "1-contrastive")
    own = summary["test_suite"]["same"]
    assert own["before"] == pytest.approx(summary["metrics"]["before"])
    assert own["after"] == pytest.approx(summary["metrics"]["after"])
    assert len(StoredRun.read(run).queries_of("new")) == 6
    assert not (run / "stages" / "2-preference" / "runs" / "test_suite").exists()
    assert "other data sets (test_suite)" in capsys.readouterr().out


def test_settings_and_sets_that_do_not_fit_are_refused(tiny_run, sets, tmp_path):
    def read(*given: str) -> None:
        prepared = prepare(load([*tiny_run, *given]))
        other_sets.read_other_sets(prepared.settings, prepared.collection, prepared.training, prepared.dev_sets)

    plain = [setting for setting in tiny_run if not setting.startswith("eval.")]
    similarity = ["eval=similarity", "loss=bce", "trainer=ranking"]
    with pytest.raises(ValueError, match=r"^test_suite ranks, and eval=similarity does not"):
        prepare(load([*plain, *suite(sets, tmp_path, "new"), *similarity]))
    with pytest.raises((ValueError, FileNotFoundError), match=r"^test_suite\.sources \(.*nowhere\): .*nowhere"):
        read(*suite(sets, tmp_path, "nowhere"))
    with pytest.raises(ValueError, match=r"^test_suite\.sources is empty: test_suite\.sources="):
        read("data@test_suite=suite")
    shutil.copytree(sets / "new", tmp_path / "untested")
    (tmp_path / "untested" / "qrels" / "test.tsv").unlink()
    with pytest.raises(ValueError, match=r"^test_suite\.sources \(untested\): .*test"):
        read(*suite(tmp_path, tmp_path, "untested"))
    named = ["data@test_suite=suite", f"test_suite.sources={{a/b: {sets / 'new'}}}", f"test_suite.cache_dir={tmp_path}"]
    with pytest.raises(ValueError, match=r"^test_suite: a/b: files are called like the set: give it a name without /"):
        read(*named)


def test_a_single_data_set_is_a_suite_of_one(tiny_run, sets, tmp_path):
    one = ["data@test_suite=beir", f"test_suite.path={sets / 'new'}", f"test_suite.cache_dir={tmp_path}"]
    prepared = prepare(load([*tiny_run, *one]))
    found = other_sets.read_other_sets(prepared.settings, prepared.collection, prepared.training, prepared.dev_sets)
    assert {name: list(own.data.splits) for name, own in found.items()} == {"new": ["test"]}
