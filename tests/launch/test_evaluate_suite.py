"""launch/evaluate.py on several data sets: figures, files, comparison, layouts, mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.formats.trec import read_run
from engines.distributed.testing import run_ranks
from evaluation.significance import corrected, interval_of, paired_test, paired_test_of_sets
from launch.cli.compose import load
from recipes.evaluate.run import evaluate

WORDS = "red green blue apple pear train rank list".split()  # noqa: SIM905
SETS = ("first", "second", "third")


def parts_of(name: str) -> dict[str, list[dict[str, Any]]]:
    """30 documents and 9 to 13 queries, each with one or two relevant documents, of a set."""
    rng = random.Random(name)
    texts = [" ".join(rng.choices(WORDS, k=3)) + f" number{i}" for i in range(30)]
    number = {"first": 9, "second": 11, "third": 13}[name]
    asked = [rng.choice(texts[i].split()[:3]) + f" number{i + i % 2}" for i in range(number)]
    pairs = [(i, document) for i in range(number) for document in {i, i + i % 3}]
    return {
        "corpus": [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)],
        "queries": [{"_id": f"q{i}", "text": text} for i, text in enumerate(asked)],
        "qrels": [{"query-id": f"q{i}", "corpus-id": f"d{document}"} for i, document in pairs],
    }


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three collections in BEIR's layout."""
    folder = tmp_path_factory.mktemp("beir")
    for name in SETS:
        parts = parts_of(name)
        for part in ("corpus", "queries"):
            write_rows(folder / name / f"{part}.jsonl", parts[part])
        lines = ["query-id\tcorpus-id\tscore", *(f"{row['query-id']}\t{row['corpus-id']}\t1" for row in parts["qrels"])]
        (folder / name / "qrels").mkdir()
        (folder / name / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same three sets in one folder in NanoBEIR's layout."""
    folder = tmp_path_factory.mktemp("nano")
    for name in SETS:
        for part, rows in parts_of(name).items():
            write_rows(folder / part / f"{name}.jsonl", rows)
    return folder


@pytest.fixture
def run(tmp_path: Path):
    """A function that evaluates sources by the arguments, and returns the results that it writes."""

    def evaluate_suite(sources: Any, *arguments: str, name: str = "results") -> dict[str, Any]:
        listed = sources if isinstance(sources, str) else f"[{','.join(map(str, sources))}]"
        output = tmp_path / f"{name}.json"
        settings = ["data=suite", f"data.sources={listed}", f"data.cache_dir={tmp_path / 'cache'}"]
        value = evaluate(load([*settings, f"output={output}", *arguments], "evaluate"))
        content = json.loads(output.read_text())
        assert value == content["mean"]["bm25" if "model=bm25" in arguments else "model"]
        return content

    return evaluate_suite


def per_query(folder: Path, name: str, ranker: str, metric: str = "nDCG@10") -> dict[str, float]:
    rows = [json.loads(line) for line in (folder / f"results.{name}.queries.jsonl").read_text().splitlines()]
    return {row["query_id"]: row[ranker][metric] for row in rows}


def test_each_set_has_the_figures_that_it_has_alone_and_the_mean_is_over_sets(beir, run, tmp_path, capsys):
    results = run([beir / name for name in SETS], "model=bm25")
    printed = capsys.readouterr().out
    for name in SETS:
        alone = tmp_path / "alone.json"
        arguments = ["data=beir", f"data.path={beir / name}", f"data.cache_dir={tmp_path}", f"output={alone}"]
        evaluate(load([*arguments, "model=bm25"], "evaluate"))
        assert results["sets"][name] == json.loads(alone.read_text())
        assert (tmp_path / f"results.{name}.bm25.run").read_bytes() == (tmp_path / "alone.bm25.run").read_bytes()
    values = [per_query(tmp_path, name, "bm25") for name in SETS]
    mean = math.fsum(math.fsum(own.values()) / len(own) for own in values) / 3
    assert results["mean"]["bm25"] == pytest.approx(mean, abs=1e-12)
    interval = interval_of(values)
    assert results["mean"]["intervals"]["bm25"]["nDCG@10"] == [interval.low, interval.high]
    assert results["mean"]["test_queries"] == 33
    for line in results["table"]:
        if line["metric"] == "nDCG@10":
            assert f"{line['mean']:.4f} [{line['low']:.4f}, {line['high']:.4f}]" in printed
    assert len(results["table"]) == 4 * 5  # three sets and the mean, five metrics
    rows = [line.split()[0] for line in printed.splitlines() if "[" in line]
    assert rows == [*SETS, "mean"]


def test_one_model_is_built_and_compared_with_bm25_on_each_set_and_over_them(
    beir, run, tiny_bert_dir, tmp_path, monkeypatch, capsys
):
    from recipes.evaluate import run as module

    built, build = [], module.build_model
    monkeypatch.setattr(module, "build_model", lambda settings: built.append(settings) or build(settings))
    arguments = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "fusion_weight=0.5"]
    results = run([beir], *arguments)  # a folder of collections
    assert len(built) == 1
    assert list(results["sets"]) == list(SETS)
    first, model = ([per_query(tmp_path, name, ranker) for name in SETS] for ranker in ("bm25", "model"))
    test = paired_test_of_sets(first, model)
    assert results["mean"]["tests"]["model_vs_bm25"]["p_value"] == test.p_value
    assert results["mean"]["tests"]["model_vs_bm25"]["difference"] == pytest.approx(test.difference)
    pairs = zip(SETS, first, model, strict=True)
    holm = corrected({name: paired_test(before, after) for name, before, after in pairs})
    found = results["tests_by_set"]["model_vs_bm25"]
    assert {name: of_set["nDCG@10"]["p_value"] for name, of_set in found.items()} == {
        name: test.p_value for name, test in holm.items()
    }
    assert set(results["mean"]["metrics"]) == {"bm25", "model", "fused"}
    out = capsys.readouterr().out
    assert f"nDCG@10, model vs BM25, mean over the sets: {test}" in out
    assert f"  first, model vs BM25: {holm['first']} (p with Holm's correction for 3 tests)" in out
    assert all(read_run(tmp_path / f"results.{name}.fused.run") for name in SETS)


def test_a_part_and_depths_are_shown_of_each_set(beir, run, tiny_bert_dir, tmp_path, capsys):
    run([beir / "first", beir / "second"], "model=bm25", "eval.max_documents=20")
    out = capsys.readouterr().out
    assert "first (partial: 20 of 30 documents)" in out
    arguments = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "eval=reranking", "eval.depths=[1,3]"]
    results = run([beir / "first", beir / "second"], *arguments)
    out = capsys.readouterr().out
    for name in ("first", "second"):
        assert len(results["sets"][name]["depth_sweep"]["depths"]) == 3
        assert f"{name}: nDCG@10 by depth of reranking, first stage:" in out
        assert (tmp_path / f"results.{name}.depths.html").is_file()


def test_nanobeir_s_layout_gives_the_figures_of_beir_s(beir, nano, run, tiny_reranker_dir):
    arguments = [f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depth=5"]
    expected = run([beir / name for name in SETS], *arguments, name="beir")
    assert run([nano], *arguments, name="nano")["table"] == expected["table"]


def test_another_suite_is_compared_with_per_set_and_over_sets(beir, run, tiny_bert_dir, tmp_path, capsys):
    run([beir], "model=bm25", name="other")
    other = tmp_path / "other.json"
    arguments = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", f"against={other}", "eval.metrics=[MAP]"]
    results = run([beir], *arguments)
    assert results["mean"]["metrics"]["against"] == pytest.approx(results["mean"]["metrics"]["bm25"])
    values = {
        ranker: {key: [per_query(tmp_path, name, ranker, key) for name in SETS] for key in ("nDCG@10", "MAP")}
        for ranker in ("against", "model")
    }
    tests = {key: paired_test_of_sets(values["against"][key], values["model"][key]) for key in ("nDCG@10", "MAP")}
    holm = corrected(tests)
    assert results["mean"]["tests_against"]["MAP"]["p_value"] == holm["MAP"].p_value
    assert f"MAP, against the other run, mean over the sets: {holm['MAP']}" in capsys.readouterr().out
    by_set = results["tests_by_set"]["model_vs_against"]
    single = {
        f"{name} {key}": paired_test(values["against"][key][place], values["model"][key][place])
        for place, name in enumerate(SETS)
        for key in ("nDCG@10", "MAP")
    }
    assert by_set["third"]["MAP"]["p_value"] == corrected(single)["third MAP"].p_value
    with pytest.raises(ValueError, match=r"is a suite: give the file of one of its sets, such as other.first.json"):
        evaluate(load(["data=beir", f"data.path={beir / 'first'}", "model=bm25", f"against={other}"], "evaluate"))
    (tmp_path / "few.json").write_text('{"sets": {"first": {}}}')
    with pytest.raises(ValueError, match=r"few.json has the sets first, and no second: evaluate both alike"):
        run([beir], "model=bm25", f"against={tmp_path / 'few.json'}", name="again")
    with pytest.raises(ValueError, match=r"other.first.json has no results of a suite"):
        run([beir], "model=bm25", f"against={tmp_path / 'other.first.json'}", name="again")


def test_names_and_options_of_sources(beir, run, tiny_bert_dir):
    sources = f"{{mine: {beir / 'first'}}}"
    node = ["+data@data.sources.own=beir", f"data.sources.own.path={beir / 'first'}"]
    prompt = "data.sources.own.query_prompt='rank apple list: '"
    results = run(sources, *node, prompt, "model=bi_encoder", f"model.name_or_path={tiny_bert_dir}")
    assert set(results["sets"]) == {"mine", "own"}
    values = {name: own["metrics"]["model"]["MAP"] for name, own in results["sets"].items()}
    assert values["mine"] != values["own"]


def test_names_that_are_taken_get_a_number_and_the_same_data_are_not_counted_twice(beir, run, tmp_path):
    shutil.copytree(beir / "first", tmp_path / "copy" / "first")
    results = run([beir / "first", tmp_path / "copy" / "first"], "model=bm25")
    assert list(results["sets"]) == ["first", "first-2"]
    with pytest.raises(ValueError, match=r"first is there twice, which would count twice in the mean: leave one out"):
        run([beir / "first", f"{beir}/second/../first"], "model=bm25", name="twice")


def test_a_folder_that_lacks_a_part_is_not_left_out_of_the_mean(beir, run, tmp_path):
    shutil.copytree(beir, tmp_path / "sets")
    (tmp_path / "sets" / "second" / "corpus.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"data.sources \(second\): no corpus.jsonl or corpus.jsonl.gz in"):
        run([tmp_path / "sets"], "model=bm25")


def test_what_a_set_has_alone_is_printed_too(beir, run, tiny_bert_dir, tiny_reranker_dir, capsys):
    model = [f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depths=[2,5]"]
    results = run([beir / "first", beir / "second"], *model, "cost=true")
    recalls = [own["recall_ceiling"] for own in results["sets"].values()]
    assert results["mean"]["recall_ceiling"] == pytest.approx(sum(recalls) / 2)
    ceilings = [own["ceiling"]["MAP"] for own in results["sets"].values()]
    assert results["mean"]["ceiling"]["MAP"] == pytest.approx(sum(ceilings) / 2)
    out = capsys.readouterr().out
    recalled = f"(first {recalls[0]:.1%}, second {recalls[1]:.1%})"
    assert f"{sum(recalls) / 2:.1%} of the relevant documents are among the candidates {recalled}" in out
    for name in ("first", "second"):
        assert f"\n{name}: cost (cpu" in out
        assert f"\n{name}: nDCG@10 by depth of reranking, first stage:" in out
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "fusion_weight=0.5"]
    results = run([beir / "first", beir / "second"], *model, "eval.max_documents=12", name="part")
    parts = [own["partial"]["documents"] for own in results["sets"].values()]
    assert results["mean"]["partial_sets"] == ["first", "second"]
    out = capsys.readouterr().out
    assert f"\nsecond (partial: {parts[1]} of 30 documents)" in out
    assert out.startswith(f"2 data sets, test: {tiny_bert_dir}, retrieved from a part of the corpus\n")


def test_a_comparison_that_some_sets_lack_is_kept_for_the_others(beir, run, tiny_bert_dir, tmp_path, capsys):
    """The weight of the fusion is fitted on dev, which only one of the two has."""
    shutil.copytree(beir / "first", tmp_path / "first")
    qrels = tmp_path / "first" / "qrels" / "test.tsv"
    lines = qrels.read_text().splitlines()
    dev = {"q7", "q8"}
    for name, keep in (("test", False), ("dev", True)):
        kept = [line for line in lines[1:] if (line.split("\t")[0] in dev) == keep]
        (qrels.parent / f"{name}.tsv").write_text("\n".join([lines[0], *kept]) + "\n")
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}"]
    results = run([beir / "second", tmp_path / "first"], *model)
    assert set(results["mean"]["metrics"]) == {"bm25", "model"}
    assert list(results["tests_by_set"]["fused_vs_bm25"]) == ["first"]
    assert "  first, fused vs BM25: " in capsys.readouterr().out


def test_a_bad_source_is_named_before_the_model_is_built(beir, run, tiny_bert_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.evaluate.run.build_model", None)
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}"]
    (tmp_path / "empty").mkdir()
    cases = {
        "absent": r"^data.sources \(absent\): .*absent: no such folder, and no hub id \(owner/name\) either",
        "empty": r"^data.sources \(empty\): no corpus.jsonl or corpus.jsonl.gz in .*empty",
    }
    for name, message in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run([beir / "first", tmp_path / name], *model)
    with pytest.raises(ValueError, match=r"^data.sources \(first\): data first has no dev split: add its judgements"):
        run([beir], *model, "split=dev")
    with pytest.raises(ValueError, match=r"^data.sources is empty: data.sources=\[FOLDER,HUB_ID,mteb:TASK,...\]"):
        run([], *model)
    with pytest.raises(ValueError, match=r"data.cache_dir is for sources given as places: set data.sources.a.cache"):
        run("{}", "+data@data.sources.a=beir", f"data.sources.a.path={beir / 'first'}", *model)
    with pytest.raises(ValueError, match=r"data.sources.a is no place of a data set: give a folder, an id of the hub"):
        run("{a: 3}", *model)
    with pytest.raises(ValueError, match=r"eval=similarity measures one data set at a time"):
        run([beir], *model, "eval=similarity")
    with pytest.raises(ValueError, match=r"data.sources: a/b: files are called like the set: give it a name without /"):
        run(f"{{a/b: {beir / 'first'}}}", *model)
    for output in (tmp_path, tmp_path / "results.txt"):
        with pytest.raises(ValueError, match=r"output=.*: give the name of a file, FILE.json"):
            load(["data=suite", *model, f"output={output}"], "evaluate")
    assert not list(tmp_path.glob("results*"))


def test_what_is_evaluated_stays_if_a_later_set_fails(beir, run, tiny_bert_dir, tmp_path, monkeypatch):
    from recipes.evaluate import run as module

    def fail_on_third(settings, collection, model):
        if collection.name == "third":
            raise RuntimeError("out of memory")
        return measure_set(settings, collection, model)

    (tmp_path / "results.json").write_text("of an earlier run")
    measure_set = module.measure_set
    monkeypatch.setattr(module, "measure_set", fail_on_third)
    with pytest.raises(RuntimeError, match="out of memory"):
        run([beir], "model=bm25")
    assert json.loads((tmp_path / "results.second.json").read_text())["metrics"]["bm25"]["MAP"] > 0
    assert read_run(tmp_path / "results.first.bm25.run")
    assert not (tmp_path / "results.json").exists()


def printed_here(arguments: list[str]) -> str:
    """What the evaluation prints on this rank."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate(load(arguments, "evaluate"))
    return printed.getvalue()


def test_two_ranks_agree_with_one_process(beir, run, tiny_reranker_dir, tmp_path):
    arguments = [f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depth=5"]
    expected = run([beir], *arguments)
    output = tmp_path / "two.json"
    settings = ["data=suite", f"data.sources=[{beir}]", f"data.cache_dir={tmp_path / 'cache'}", f"output={output}"]
    printed = run_ranks(printed_here, 2, [*settings, *arguments])
    assert [text.count("mean over 3 sets") for text in printed] == [1, 0]
    assert not printed[1]
    table = json.loads(output.read_text())["table"]
    assert [line["mean"] for line in table] == pytest.approx([line["mean"] for line in expected["table"]], abs=1e-6)


def test_a_suite_is_no_data_to_train_on(beir, tmp_path):
    from recipes.preparation import prepare

    arguments = ["data=suite", f"data.sources=[{beir}]", f"output_dir={tmp_path}"]
    with pytest.raises(ValueError, match=r"^data=suite is evaluated only, by launch/evaluate.py or as data@dev_suite"):
        prepare(load(arguments))
