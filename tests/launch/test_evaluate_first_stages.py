"""launch/evaluate.py behind several first stages and at several depths, on one process and two; mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.distributed.testing import run_ranks
from evaluation.list_scorer import ListScorer
from inference.search import InvertedIndex
from launch.cli.compose import load
from models.sparse.sparse_encoder import SparseEncoderConfig
from recipes.evaluate.first_stage_names import names_of
from recipes.evaluate.run import evaluate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def arguments(tiny_beir_dir, tiny_reranker_dir, tmp_path_factory) -> list[str]:
    cache = tmp_path_factory.mktemp("cache")
    data = ["data=beir", f"data.path={tiny_beir_dir}", f"data.cache_dir={cache}"]
    return [*data, f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depth=6"]


@pytest.fixture(scope="module")
def dense_run(arguments, tiny_bert_dir, tmp_path_factory) -> Path:
    """The run of the tiny embedding model, as evaluate.py writes it."""
    output = tmp_path_factory.mktemp("dense") / "dense.json"
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", f"output={output}", "eval.depth=100"]
    evaluate(load([*(each for each in arguments if each.startswith("data")), *model], "evaluate"))
    return output.with_suffix(".model.run")


@pytest.fixture(scope="module")
def three(arguments, dense_run, tiny_bert_dir, tmp_path_factory) -> dict:
    """The results behind BM25, the run and the embedding model itself."""
    output = tmp_path_factory.mktemp("three") / "three.json"
    stages = f"first_stages=[bm25,{dense_run},{tiny_bert_dir}]"
    evaluate(load([*arguments, stages, "eval.depths=[2,6]", f"output={output}"], "evaluate"))
    return {"output": output, **json.loads(output.read_text())}


def test_each_first_stage_has_the_results_of_its_own_evaluation(three, arguments, dense_run, tmp_path):
    alone = tmp_path / "alone.json"
    evaluate(load([*arguments, f"output={alone}"], "evaluate"))
    expected, (bm25, of_run, of_model) = json.loads(alone.read_text()), three["first_stages"].values()
    for ranker in ("first_stage", "model", "fused"):
        assert bm25["metrics"][ranker] == pytest.approx(expected["metrics"][ranker])
        assert bm25["intervals"][ranker]["MAP"] == pytest.approx(expected["intervals"][ranker]["MAP"])
    assert bm25["recall_ceiling"] == pytest.approx(expected["recall_ceiling"])
    assert bm25["fusion_weight"] == expected["fusion_weight"]
    evaluate(
        load([*arguments, "data/candidates=run", f"data.candidates.path={dense_run}", f"output={alone}"], "evaluate")
    )
    expected = json.loads(alone.read_text())
    for ranker in ("first_stage", "model"):
        assert of_run["metrics"][ranker] == pytest.approx(expected["metrics"][ranker])
        assert of_model["metrics"][ranker] == pytest.approx(expected["metrics"][ranker])  # the run is this model's
    assert three["model"] == bm25["metrics"]["model"]["nDCG@10"]


def test_pairs_that_first_stages_share_are_scored_once(arguments, dense_run, tmp_path, monkeypatch):
    sizes = []
    score = ListScorer.score

    def counted(self, *options):
        sizes.append(sum(map(len, self.lists.values())))
        return score(self, *options)

    monkeypatch.setattr(ListScorer, "score", counted)
    copy = tmp_path / "copy.run"
    copy.write_text(dense_run.read_text())
    once = [*arguments, "fusion_weight=0.5"]
    evaluate(load([*once, f"first_stages=[{dense_run}]"], "evaluate"))
    evaluate(load([*once, f"first_stages=[{dense_run},{copy}]"], "evaluate"))
    assert len(sizes) == 2
    assert sizes[0] == sizes[1]


def test_tests_and_files(three):
    names = list(three["first_stages"])
    assert names[:2] == ["bm25", "dense"]
    tests = {f"{name}.{key}_vs_{name}.first_stage" for name in names for key in ("model", "fused")}
    tests = {test for test in tests if not test.startswith("dense.fused")}  # the run has no queries of dev
    assert set(three["tests"]) == tests | {f"{name}.model_vs_bm25.model" for name in names[1:]}
    assert three["pairs_scored"] < three["pairs_of_all_first_stages"]
    for own in three["first_stages"].values():
        assert [each["depth"] for each in own["depth_sweep"]["depths"]] == [0, 2, 6]
        last = own["depth_sweep"]["depths"][-1]
        assert last["metrics"]["nDCG@10"] == pytest.approx(own["metrics"]["model"]["nDCG@10"])
    folder = three["output"].parent
    assert (folder / "three.bm25.model.run").is_file()
    assert (folder / "three.depths.html").is_file()
    first = json.loads((folder / "three.queries.jsonl").read_text().splitlines()[0])
    assert "dense.first_stage" in first


def test_one_table_is_printed(arguments, dense_run, capsys):
    evaluate(load([*arguments, f"first_stages=[bm25,{dense_run}]", "fusion_weight=0.5"], "evaluate"))
    out = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in out.splitlines()]
    for name in ("bm25", "dense"):
        for row in (name, f"{name}, reranked", f"{name}, fused", f"{name}, oracle"):
            assert row in rows
    assert "of the relevant documents are among the candidates; fused: 0.50 model + 0.50 first stage" in out
    assert "nDCG@10, dense, reranked vs bm25, reranked: " in out
    assert "p with Holm's correction for 5 tests" in out


def test_positives_are_added_where_that_is_asked_for(arguments, dense_run, tmp_path):
    output = tmp_path / "forced.json"
    options = [f"first_stages=[bm25,{dense_run}]", "eval.always_rerank_positives=true", f"output={output}"]
    evaluate(load([*arguments, *options], "evaluate"))
    results = json.loads(output.read_text())["first_stages"]
    assert [own["recall_ceiling"] for own in results.values()] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["first_stages=[absent.run]"], r"first_stages: absent.run: no such file: give bm25, a TREC run"),
        (["first_stages=[bm25,bm25]"], "first_stages: bm25 is there twice"),
        (["first_stages=['']"], "first_stages: entry 1 is empty"),
        (["first_stages=[./absent]"], r"first_stages: model ./absent: no such folder"),
        (["first_stages=[README.md]"], "README.md is not called like a run"),
        (["first_stages=[bm25]", "against=README.md"], "compares one ranking with another"),
        (
            ["first_stages=[bm25]", "data/candidates=run", "data.candidates.path=x.run"],
            r"data.candidates.path=x.run is not read beside first_stages: .* first_stages=\[bm25,x.run",
        ),
        (["first_stages=[bm25]", "model=bm25"], "first_stages give the candidates that are reranked"),
        (["first_stages=[bm25]", "eval=similarity"], "first_stages give the candidates that are reranked"),
    ],
)
def test_mistakes_are_one_line(arguments, options, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    kept = (
        [each for each in arguments if not each.startswith(("model", "eval"))]
        if "model=bm25" in options
        else [each for each in arguments if not each.startswith("eval")]
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        evaluate(load([*kept, *options], "evaluate"))
    assert "\n" not in str(caught.value)


def test_a_run_of_other_queries_is_refused(arguments, tmp_path):
    other = tmp_path / "other.run"
    other.write_text("nobody Q0 d1 1 1.0 x\n")
    with pytest.raises(ValueError, match=r"other.run ranks no document of the corpus for 6 of the 6 queries"):
        evaluate(load([*arguments, f"first_stages=[{other}]"], "evaluate"))


def test_names_are_short_and_differ():
    assert names_of(["bm25", "outputs/one/model", "outputs/two/model", "hub/MiniLM-L6", "other/MiniLM-L6"]) == {
        "bm25": "bm25",
        "one": "outputs/one/model",
        "two": "outputs/two/model",
        "MiniLM-L6": "hub/MiniLM-L6",
        "MiniLM-L6-2": "other/MiniLM-L6",
    }


def test_no_first_stage_is_lost_to_the_name_of_another(tmp_path):
    files = [tmp_path / name for name in ("a-2.run", "x/a.run", "y/a.run", "new_vs_old.run")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    names = names_of(list(map(str, files)))
    assert names == dict(zip(["a-2", "a", "a-3", "new-vs-old"], map(str, files), strict=True))


def test_a_run_may_be_called_by_two_names_and_rank_documents_that_the_corpus_lacks(
    arguments, dense_run, tmp_path, caplog, capsys
):
    file = tmp_path / "new_vs_old.run"
    file.write_text(dense_run.read_text() + "test0 Q0 nowhere 99 -9.0 x\n")
    evaluate(load([*arguments, f"first_stages=[{file},bm25]"], "evaluate"))
    assert f"first_stages: {file}: 1 documents that the corpus lacks are left out" in caplog.text
    assert "nDCG@10, bm25, reranked vs new-vs-old, reranked:" in capsys.readouterr().out


def test_a_first_stage_is_searched_by_the_index_that_its_model_names(arguments, tiny_bert_dir, tmp_path, monkeypatch):
    searched, nearest = [], InvertedIndex.nearest

    def counted(self, queries, depth):
        searched.append(len(queries))
        return nearest(self, queries, depth)

    monkeypatch.setattr(InvertedIndex, "nearest", counted)
    SparseEncoderConfig(str(tiny_bert_dir), query_terms=5, document_terms=9).build(0).export(tmp_path / "sparse")
    evaluate(load([*arguments, "fusion_weight=0.5", f"first_stages=[{tmp_path / 'sparse'}]"], "evaluate"))
    assert searched


def test_a_reranker_is_no_first_stage(arguments, tiny_reranker_dir, tmp_path):
    with pytest.raises(ValueError, match=r"first_stages: .* is a reranker, which finds no documents: give bm25"):
        evaluate(load([*arguments, f"first_stages=[{tiny_reranker_dir}]"], "evaluate"))
    (tmp_path / "link").symlink_to(tiny_reranker_dir)
    with pytest.raises(ValueError, match=r"link is there twice"):
        load([*arguments, f"first_stages=[{tiny_reranker_dir},{tmp_path}/link]"], "evaluate")


def test_training_compares_no_depths():
    with pytest.raises(ValueError, match=r"eval.depths=\[5\] are compared by launch/evaluate.py"):
        load(["+exp=reranker_grpo", "eval.depths=[5]"])


def evaluate_here(arguments: list[str]) -> None:
    evaluate(load(arguments, "evaluate"))


def test_two_ranks_have_the_results_of_one(three, arguments, dense_run, tiny_bert_dir, tmp_path):
    output = tmp_path / "ranks.json"
    stages = f"first_stages=[bm25,{dense_run},{tiny_bert_dir}]"
    run_ranks(evaluate_here, 2, [*arguments, stages, "eval.depths=[2,6]", f"output={output}"])
    results = json.loads(output.read_text())
    for name, own in three["first_stages"].items():
        for ranker, metrics in own["metrics"].items():
            assert results["first_stages"][name]["metrics"][ranker] == pytest.approx(metrics)
