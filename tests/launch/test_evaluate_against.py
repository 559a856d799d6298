"""launch/evaluate.py: what it writes beside its results, and the comparison with another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data.formats.trec import read_run
from evaluation.significance import paired_test
from launch.cli.compose import load
from recipes.evaluate.against import check_queries
from recipes.evaluate.run import evaluate

WORDS = "red green blue apple pear train rank list".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 documents of which each has the words of one test query and of its neighbour."""
    folder = tmp_path_factory.mktemp("beir") / "tiny"
    (folder / "qrels").mkdir(parents=True)
    texts = [f"{WORDS[i % 8]} {WORDS[(3 * i + i // 8) % 8]} number{i} number{i + 1}" for i in range(20)]
    corpus = [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": f"number{i + i % 2}"} for i in range(12)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(12))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    return folder


def _evaluate(beir: Path, *more: str) -> float:
    return evaluate(load(["data=beir", f"data.path={beir}", f"data.cache_dir={beir.parent}", *more], "evaluate"))


def _model(folder: Path) -> list[str]:
    return ["model=bi_encoder", f"model.name_or_path={folder}"]


def test_values_of_queries_and_rankings_lie_beside_the_results(beir, tiny_bert_dir, tmp_path):
    _evaluate(beir, *_model(tiny_bert_dir), "fusion_weight=0.5", f"output={tmp_path / 'r.json'}")
    results = json.loads((tmp_path / "r.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "r.queries.jsonl").read_text().splitlines()]
    assert [row["query_id"] for row in rows] == [f"q{i}" for i in range(12)]
    for ranker in ("bm25", "model", "fused"):
        mean = sum(row[ranker]["MRR@10"] for row in rows) / len(rows)
        assert mean == pytest.approx(results["metrics"][ranker]["MRR@10"])
        low, high = results["intervals"][ranker]["MRR@10"]
        assert low <= mean <= high
        assert read_run(tmp_path / f"r.{ranker}.run").keys() == {row["query_id"] for row in rows}


@pytest.mark.parametrize("kind", ["results", "run file", "training run"])
def test_another_run_is_compared_with_by_paired_tests(beir, tiny_bert_dir, tmp_path, capsys, kind):
    bm25 = tmp_path / "bm25.json"
    _evaluate(beir, "model=bm25", f"output={bm25}")
    other = {"results": bm25, "run file": tmp_path / "bm25.bm25.run", "training run": tmp_path / "run"}[kind]
    if kind == "training run":
        (other / "runs").mkdir(parents=True)
        shutil.copy(tmp_path / "bm25.bm25.run", other / "runs" / "after.run")
    output = tmp_path / "r.json"
    capsys.readouterr()
    _evaluate(beir, *_model(tiny_bert_dir), "fusion_weight=0.5", f"output={output}", f"against={other}")
    results = json.loads(output.read_text())
    assert results["metrics"]["against"] == pytest.approx(results["metrics"]["bm25"])
    rows = [json.loads(line) for line in (tmp_path / "r.queries.jsonl").read_text().splitlines()]
    for metric, test in results["tests_against"].items():
        first, second = ({row["query_id"]: row[name][metric] for row in rows} for name in ("against", "model"))
        alone = paired_test(first, second)
        assert (test["difference"], test["low"], test["high"]) == (alone.difference, alone.low, alone.high)
        assert alone.p_value <= test["p_value"] <= 1
    out = capsys.readouterr().out
    assert "other run" in out
    assert "nDCG@10, against the other run: " in out
    assert "Holm's correction for 5 metrics" in out


def test_mistakes_are_one_line(beir, tmp_path):
    nowhere, empty, results = tmp_path / "nowhere", tmp_path / "empty", tmp_path / "other.json"
    empty.mkdir()
    results.write_text("[]")
    for path, words in ((nowhere, "no such file"), (empty, "after.run does not exist"), (results, "no results of")):
        with pytest.raises((ValueError, OSError), match=words) as error:
            _evaluate(beir, "model=bm25", f"against={path}")
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_run_of_other_queries_is_refused(beir, tmp_path, caplog):
    few = tmp_path / "few.json"
    _evaluate(beir, "model=bm25", "eval.max_queries=11", f"output={few}")
    with pytest.raises(ValueError, match="has not ranked 1 of the 12 queries"):
        _evaluate(beir, "model=bm25", f"against={few}")
    with pytest.raises(ValueError, match="has not ranked 2 of the 12 queries"):
        check_queries(tmp_path / "x.run", {f"q{i}": {} for i in range(10)}, [f"q{i}" for i in range(12)])
    check_queries(tmp_path / "x.run", {f"q{i}": {} for i in range(11)}, [f"q{i}" for i in range(12)])
    assert "they count as 0" in caplog.text


def test_a_run_of_another_collection_with_the_same_ids_is_told(beir, tmp_path, caplog):
    other = tmp_path / "other"
    shutil.copytree(beir, other)
    (other / "corpus.jsonl").write_text((beir / "corpus.jsonl").read_text().replace("number", "thing"))
    (other / "queries.jsonl").write_text((beir / "queries.jsonl").read_text().replace("number", "thing"))
    arguments = ["data=beir", f"data.path={other}", f"data.cache_dir={tmp_path}", "model=bm25"]
    evaluate(load([*arguments, f"output={tmp_path / 'r.json'}"], "evaluate"))
    evaluate(load([*arguments, f"against={tmp_path / 'r.json'}"], "evaluate"))
    assert "other texts" not in caplog.text
    _evaluate(beir, "model=bm25", f"against={tmp_path / 'r.json'}")
    assert "r.json was measured on other texts (data other): its values can be compared" in caplog.text


def test_a_run_of_another_corpus_is_refused_or_told(beir, tmp_path, caplog):
    run = tmp_path / "x.run"
    lines = [f"q{i} Q0 d{i} 1 2.0 x\nq{i} Q0 elsewhere 2 1.0 x\n" for i in range(12)]
    run.write_text("".join(lines))
    _evaluate(beir, "model=bm25", f"against={run}")
    assert "of its best documents 1 of 13 are not in this corpus ('elsewhere' ...)" in caplog.text
    run.write_text("".join(lines).replace(" d", " z"))
    with pytest.raises(ValueError, match=r"x.run ranks no document of this corpus \(but 'elsewhere' ...\): evaluate"):
        _evaluate(beir, "model=bm25", f"against={run}")


def test_results_of_several_first_stages_name_a_run_to_compare_with(beir, tmp_path):
    (tmp_path / "several.json").write_text('{"first_stages": {"bm25": {}}}')
    with pytest.raises(ValueError, match=r"has several first stages: give the run of one, such as several.bm25.model"):
        _evaluate(beir, "model=bm25", f"against={tmp_path / 'several.json'}")
