"""A suite as the dev of training: the best checkpoint, what is logged, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data.overlap import held_out_queries
from launch.cli.compose import load
from recipes.dev_suite import read_dev_suite
from recipes.preparation import prepare
from recipes.training_run import train


@pytest.fixture(scope="module")
def sets(tiny_beir_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections: `other` has the queries of the run's data in another order of splits (its dev is a part of the
    run's train), `new` has a dev and a test of new queries, and no train."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("other", "new"):
        shutil.copytree(tiny_beir_dir, folder / name)
    qrels = folder / "other" / "qrels"
    lines = (qrels / "train.tsv").read_text().splitlines()
    (qrels / "dev.tsv").write_text("\n".join(lines[:5]) + "\n")
    (qrels / "train.tsv").unlink()
    (qrels / "test.tsv").unlink()
    queries = [json.loads(line) for line in (folder / "new" / "queries.jsonl").read_text().splitlines()]
    renamed = [{"_id": row["_id"], "text": f"{row['text']} anew"} for row in queries]
    (folder / "new" / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
    (folder / "new" / "qrels" / "train.tsv").unlink()
    return folder


def suite(sets: Path, cache: Path, *names: str) -> list[str]:
    listed = ",".join(str(sets / name) for name in names)
    return ["data@dev_suite=suite", f"dev_suite.sources=[{listed}]", f"dev_suite.cache_dir={cache}"]


def test_the_best_checkpoint_has_the_best_mean_over_the_sets(tiny_run, sets, tmp_path):
    settings = load([*tiny_run, *suite(sets, tmp_path, "other", "new"), "trainer.eval_every=1", "trainer.max_steps=3"])
    best = train(settings)
    [folder] = [file.parent for file in tmp_path.rglob("metrics.jsonl")]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    dev = [line for line in lines if line["split"] == "dev"]
    assert [line["step"] for line in dev] == [0, 1, 2, 3]
    for line in dev:
        own = [line[f"nDCG@10/{name}"] for name in ("other", "new")]
        assert line["nDCG@10"] == pytest.approx(sum(own) / 2, abs=1e-12)
    assert len({line["nDCG@10/new"] for line in dev}) > 1
    summary = json.loads((folder / "summary.json").read_text())
    assert best == summary["best_dev"] == max(line["nDCG@10"] for line in dev)
    assert 0 <= summary["fusion_weight"] <= 1


def test_queries_of_the_suite_are_not_trained_on(tiny_run, sets, tmp_path, caplog):
    prepared = prepare(load([*tiny_run, *suite(sets, tmp_path, "other", "new")]))
    trained = set(prepared.collection.splits["train"].queries)
    assert len(trained) == 24 - 4
    assert not trained & set(prepared.dev_sets["other"].splits["dev"].queries)
    assert "4 of 24 train queries are also in dev of dev_suite (other): dropped" in caplog.text
    assert len(held_out_queries(prepared.dev_sets["new"]).by_text) == 6  # its test is none of the suite


def test_a_set_without_dev_needs_leave_to_be_tuned_on_its_test(tiny_run, sets, tmp_path, caplog):
    folder = tmp_path / "sets"
    shutil.copytree(sets / "new", folder / "new")
    (folder / "new" / "qrels" / "dev.tsv").unlink()
    arguments = [*tiny_run, *suite(folder, tmp_path, "new")]
    with pytest.raises(ValueError, match=r"^data.sources \(new\): data new has no dev split: .*dev_suite_uses_test="):
        prepare(load(arguments))
    prepared = prepare(load([*arguments, "dev_suite_uses_test=true"]))
    assert list(prepared.dev_sets["new"].splits["dev"].queries) == [f"test{i}" for i in range(6)]
    assert "new is measured on test: figures of this run on that test are no result" in caplog.text


def test_the_run_s_own_test_chooses_no_checkpoint(tiny_run, tiny_beir_dir, tmp_path):
    shutil.copytree(tiny_beir_dir, tmp_path / "same")
    (tmp_path / "same" / "qrels" / "dev.tsv").unlink()
    (tmp_path / "same" / "qrels" / "train.tsv").unlink()
    arguments = [*tiny_run, *suite(tmp_path, tmp_path, "same"), "dev_suite_uses_test=true"]
    with pytest.raises(ValueError, match=r"^dev_suite: 6 of the 6 queries of same are in the run's own test"):
        prepare(load(arguments))


def test_settings_that_do_not_fit_are_refused(tiny_run, sets, tmp_path):
    with pytest.raises(ValueError, match=r"^dev_suite_uses_test=true is for the sets of dev_suite, and there are none"):
        prepare(load([*tiny_run, "dev_suite_uses_test=true"]))
    plain = [setting for setting in tiny_run if not setting.startswith("eval.")]
    with pytest.raises(ValueError, match=r"^dev_suite ranks, and eval=similarity does not"):
        prepare(load([*plain, *suite(sets, tmp_path, "new"), "eval=similarity", "loss=bce", "trainer=ranking"]))
    settings = load(
        [*tiny_run, "data@dev_suite=beir", f"dev_suite.path={sets / 'new'}", f"dev_suite.cache_dir={tmp_path}"]
    )
    assert list(read_dev_suite(settings, settings.data.build())) == ["new"]  # a single data set is a suite of one
