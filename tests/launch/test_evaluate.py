"""launch/evaluate.py on a tiny collection: retrievers and rerankers, one process and two, mistakes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data import candidates, progress
from inference.search import BlockSearch
from launch.cli.compose import compose, load
from models.bi_encoder import BiEncoder
from recipes.evaluate.run import evaluate

ROOT = Path(__file__).parents[2]
WORDS = "red green blue apple pear train rank list".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def beir(tmp_path_factory) -> Path:
    """24 documents of two words; query qi asks for the words of document di. 12 training and 8 test queries."""
    folder = tmp_path_factory.mktemp("beir") / "tiny"
    (folder / "qrels").mkdir(parents=True)
    texts = [f"{WORDS[i % 8]} {WORDS[(3 * i + i // 8) % 8]} number{i}" for i in range(24)]
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": f"what is {text}"} for i, text in enumerate(texts[:20])]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, numbers in (("train", range(12)), ("test", range(12, 20))):
        rows = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in numbers)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def _arguments(beir: Path, *more: str) -> list[str]:
    return ["data=beir", f"data.path={beir}", f"data.cache_dir={beir.parent}", "data.dev_fraction=0.4", *more]


def _evaluate(arguments: list[str]) -> float:
    return evaluate(load(arguments, "evaluate"))


def test_bm25_stands_alone(beir, capsys):
    value = _evaluate(_arguments(beir, "model=bm25"))
    out = capsys.readouterr().out
    assert value == 1.0
    assert "tiny, test: bm25, retrieved from the whole corpus" in out
    assert "recall@100" in out
    assert "8 queries" in out
    assert "fused" not in out


def test_a_bi_encoder_is_compared_and_fused_with_bm25(beir, tiny_bert_dir, tmp_path, capsys):
    output = tmp_path / "results.json"
    value = _evaluate(_arguments(beir, "model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", f"output={output}"))
    results = json.loads(output.read_text())
    assert list(results["metrics"]) == ["bm25", "model", "fused"]
    assert results["model"] == results["metrics"]["model"]["nDCG@10"] == value
    assert results["metrics"]["model"]["recall@100"] == 1.0  # all 24 documents are retrieved
    assert results["metrics"]["fused"]["nDCG@10"] >= value
    assert 0 <= results["fusion_weight"] <= 1
    assert set(results["tests"]) == {"model_vs_bm25", "fused_vs_bm25"}
    out = capsys.readouterr().out
    assert "first stage" not in out
    assert ("warning: the model ranks worse than BM25" in out) == (value < results["bm25"])


def test_a_cross_encoder_reranks_the_candidates(beir, tiny_reranker_dir, tmp_path, capsys):
    output = tmp_path / "results.json"
    arguments = [f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depth=5", f"output={output}"]
    value = _evaluate(_arguments(beir, *arguments))
    results = json.loads(output.read_text())
    out = capsys.readouterr().out
    assert list(results["metrics"]) == ["first_stage", "model", "fused"]
    assert results["metrics"]["first_stage"]["nDCG@10"] == results["ceiling"]["nDCG@10"] == 1.0
    assert value < 1.0
    assert "reranked to depth 5" in out
    assert "oracle" in out
    assert "warning: the model ranks worse than the first stage" in out
    assert "untrained" not in out


def test_dimensions_and_depth_of_retrieval(beir, tiny_bert_dir, tmp_path, capsys):
    output = tmp_path / "results.json"
    arguments = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "eval.dims=[16,4]", "eval.depth=20"]
    _evaluate(_arguments(beir, *arguments, "eval.metrics=[MAP]", f"output={output}"))
    results = json.loads(output.read_text())
    names = ["nDCG@10", "MAP", "nDCG@10/dim16", "MAP/dim16", "nDCG@10/dim4", "MAP/dim4"]
    assert list(results["metrics"]["model"]) == names
    assert list(results["metrics"]["fused"]) == ["nDCG@10", "MAP"]
    out = capsys.readouterr().out
    assert "model, dim 16" in out
    assert "oracle" not in out


def test_stored_precisions_of_retrieval(beir, tiny_bert_dir, tmp_path, capsys):
    output = tmp_path / "results.json"
    arguments = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "eval.precision=[fp32,int8,binary]"]
    _evaluate(_arguments(beir, *arguments, "eval.dims=[16]", "eval.metrics=[MAP]", f"output={output}"))
    results = json.loads(output.read_text())
    forms = ("", "/int8", "/binary", "/dim16", "/dim16/int8", "/dim16/binary")
    metrics = results["metrics"]["model"]
    assert [name for name in metrics if name.startswith("MAP")] == [f"MAP{form}" for form in forms]
    assert metrics["overlap@10/int8"] > metrics["overlap@10/binary"] > 0.3
    rows = capsys.readouterr().out
    assert "model, int8" in rows
    assert "model, dim 16, binary" in rows


def test_a_bi_encoder_reranks_candidates_where_that_is_asked_for(beir, tiny_bert_dir, capsys):
    arguments = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "eval=reranking", "eval.depth=5"]
    value = _evaluate(_arguments(beir, *arguments))
    out = capsys.readouterr().out
    assert 0 < value < 1
    assert "reranked to depth 5" in out
    assert "oracle" in out


def test_the_prompts_of_the_data_are_read_in_evaluation_too(beir, tiny_bert_dir):
    arguments = _arguments(beir, "model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "eval.metric=MAP")
    plain = _evaluate(arguments)
    assert plain == _evaluate([*arguments, "data.query_prompt=''"])
    assert plain != _evaluate([*arguments, "data.query_prompt='rank apple list: '"])


def test_only_the_candidates_that_are_compared_with_are_found(beir, tiny_bert_dir, monkeypatch):
    searched = []
    top = candidates.bm25_top

    def bm25_top(documents, queries, *, depth, **options):
        searched.append((len(queries), depth))
        return top(documents, queries, depth=depth, **options)

    monkeypatch.setattr(candidates, "bm25_top", bm25_top)
    fresh = f"data.cache_dir={beir.parent / 'fresh'}"
    _evaluate(_arguments(beir, "model=bm25", fresh))
    assert searched == []
    arguments = _arguments(beir, "model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", fresh)
    _evaluate([*arguments, "eval.depth=300"])
    assert searched == [(5 + 8, 300)]  # dev and test; as deep as the model retrieves
    _evaluate([*arguments, "fusion_weight=0.5", "eval.depth=200"])
    assert searched[1:] == [(8, 200)]


def test_bf16_is_for_the_model_alone(beir, tiny_bert_dir, monkeypatch):
    under_autocast = {}
    add, forward = BlockSearch.add, BiEncoder.forward

    def search(self, documents):
        under_autocast["search"] = torch.is_autocast_enabled("cpu")
        add(self, documents)

    def embed(self, **features):
        under_autocast["forward"] = torch.is_autocast_enabled("cpu")
        return forward(self, **features)

    monkeypatch.setattr(BlockSearch, "add", search)
    monkeypatch.setattr(BiEncoder, "forward", embed)
    _evaluate(_arguments(beir, "model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "precision=bf16"))
    assert under_autocast == {"forward": True, "search": False}


def test_no_weight_is_fitted_on_the_split_that_is_evaluated(beir, tiny_reranker_dir, capsys):
    arguments = [f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depth=4", "split=dev"]
    _evaluate(_arguments(beir, *arguments))
    assert "fused" not in capsys.readouterr().out
    _evaluate(_arguments(beir, *arguments, "fusion_weight=0.25", "eval.max_queries=3"))
    out = capsys.readouterr().out
    assert "3 queries" in out
    assert "fused: 0.25 model + 0.75 first stage" in out


def test_an_untrained_head_is_refused(beir, tiny_bert_dir):
    with pytest.raises(ValueError, match=r"has no score head: .* model=bi_encoder model.name_or_path="):
        _evaluate(_arguments(beir, f"model.name_or_path={tiny_bert_dir}", "model.max_length=64", "eval.depth=3"))


def test_queries_without_a_candidate_are_refused_although_dev_has_some(beir, tiny_reranker_dir, tmp_path):
    folder = tmp_path / "foreign"
    shutil.copytree(beir, folder)
    queries = [json.loads(line) for line in (beir / "queries.jsonl").read_text().splitlines()]
    for number, row in enumerate(queries[12:]):
        row["text"] = f"zzz{number}"
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    with pytest.raises(ValueError, match="no candidates to rerank for any of the 8 judged queries"):
        _evaluate(_arguments(folder, f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64"))


def test_the_command_on_two_ranks_agrees_with_one_process(beir, tiny_reranker_dir, tmp_path):
    """Started as a file, whose own folder must not hide the packages."""
    arguments = _arguments(beir, f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depth=5")
    arguments += ["eval.token_budget=64", f"output={tmp_path / 'results.json'}"]
    value = _evaluate(arguments)
    expected = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*torchrun, str(ROOT / "launch" / "evaluate.py"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("first stage  ") == 1  # one rank prints
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["model"] == pytest.approx(value, abs=1e-6)
    assert list(results["metrics"]) == list(expected["metrics"])


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_model_gets_the_evaluation_that_fits(file):
    settings = load([f"model={file.stem}"], "evaluate")
    searches = settings.model.retrieves_by_itself or "embedding" in settings.model.outputs
    assert settings.eval.required_outputs == ({"embedding"} if searches else set())
    assert type(settings.eval).__name__ == ("RetrievalConfig" if searches else "RerankingConfig")


def test_a_model_s_file_of_the_user_s_own_gets_the_evaluation_of_the_class_below_it(tmp_path):
    (tmp_path / "model").mkdir()
    bases = {"mine": "qwen3_embedding", "mine_too": "mine", "pairs": "/model/cross_encoder"}
    for name, base in bases.items():
        (tmp_path / "model" / f"{name}.yaml").write_text(f"defaults: [{base}]\nmax_length: 128\n")
        tree = compose([f"model={name}"], "evaluate", tmp_path)
        kind = "reranking_evaluator.Reranking" if name == "pairs" else "retrieval_evaluator.Retrieval"
        assert tree["eval"]["_target_"] == f"evaluation.{kind}Config"
        assert tree["model"]["max_length"] == 128
    with pytest.raises(ValueError, match=r"model=absent is not a choice: valid: .*mine, mine_too, pairs"):
        compose(["model=absent"], "evaluate", tmp_path)
    (tmp_path / "model" / "broken.yaml").write_text("_target_: no.Such\n")
    with pytest.raises(ValueError, match=r"model._target_=no.Such cannot be imported"):
        compose(["model=broken"], "evaluate", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval.metric=ndgc@10"], "eval: no metric 'ndgc@10': did you mean nDCG@10"),
        (["fusion_weight=2"], r"fusion_weight=2.0 must lie in \[0, 1\]"),
        (["output=no/such/folder.json"], "output=no/such/folder.json: the folder no/such does not exist"),
        (["split=tset"], r"data tiny has no tset split: did you mean test\? add its judgements, or choose split=train"),
        (["split=validation"], r"data tiny has no validation split: did you mean dev\? add its judgements"),
        (
            ["+exp=reranker_grpo"],
            r"\+exp=reranker_grpo is an experiment of launch/train.py, it chooses a loss, which this",
        ),
        (["loss=bce"], "loss=bce: this command has no loss: leave it out"),
        (["model=bm25", "model.k2=1"], "model.k2 is not an option.*valid: k1, b"),
        (["model=bm25", "fusion_weight=0.5"], "fusion_weight=0.5: model=bm25 is fused with nothing"),
        (["model=bm25", "eval=reranking"], "model=bm25 finds the candidates that eval=reranking reorders"),
        (["eval=retrieval"], "needs an embedding of each text, and the model gives score: choose eval=reranking"),
        (["model=bi_encoder", "eval.search=fais"], "eval.search=fais: choose exact or faiss or inverted or plaid"),
        (["model=bi_encoder", "eval.dims=[0]"], "eval.dims=\\[0\\]: each must be at least 1"),
        (["model=bi_encoder", "eval.always_rerank_positives=true"], "eval.always_rerank_positives is not an option"),
    ],
)
def test_mistakes_are_named_before_a_model_is_loaded(beir, arguments, message, monkeypatch):
    monkeypatch.setattr("models.cross_encoder.CrossEncoderConfig.build", None)
    monkeypatch.setattr("models.pretrained.PretrainedOptions.check", lambda options, **needs: None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        _evaluate(_arguments(beir, *arguments))


def test_a_loss_of_a_data_set_is_refused(beir):
    sources = [f"+data@data.sources.{name}=beir" for name in "ab"]
    sources += [f"data.sources.{name}.path={beir}" for name in "ab"]
    with pytest.raises(ValueError, match=r"^data.sources.a.loss is read in training only: leave it out"):
        _evaluate(["data=mixture", "data.evaluate_on=a", *sources, "data.sources.a.loss=cosent", "model=bm25"])


def test_what_a_mixture_holds_out_is_what_is_measured(beir, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(beir, other)
    data = ["data=mixture", "+data@data.sources.a=beir", f"data.sources.a.path={beir}", "+data@data.held_out=beir"]
    data += [f"data.held_out.path={other}", f"data.held_out.cache_dir={tmp_path}"]
    _evaluate([*data, f"data.sources.a.cache_dir={tmp_path}", "model=bm25", f"output={tmp_path / 'results.json'}"])
    assert "other, test: bm25, retrieved from the whole corpus" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["data"] == "other"


def test_long_steps_are_shown_on_stderr_and_results_alone_on_stdout(beir, tiny_reranker_dir, monkeypatch, capsys):
    arguments = _arguments(beir, f"model.name_or_path={tiny_reranker_dir}", "model.max_length=64", "eval.depth=5")
    arguments.append("eval.token_budget=64")
    _evaluate(arguments)
    quick = capsys.readouterr()
    assert " left" not in quick.err
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    _evaluate(arguments)
    shown = capsys.readouterr()
    assert shown.out == quick.out
    lines = [line for line in shown.err.splitlines() if line not in quick.err.splitlines()]
    assert re.match(r"scoring: 1 of \d+ batches, .+, about \d+ s left$", next(line for line in lines if "scor" in line))
    assert {re.split(r": \d", line)[0] for line in lines} >= {"scoring", "ranking", "reading texts"}


def test_first_dimensions_of_a_model_without_an_order_of_them_are_refused(beir, tiny_bert_dir):
    arguments = _arguments(beir, "model=sparse_encoder", f"model.name_or_path={tiny_bert_dir}", "eval=retrieval")
    with pytest.raises(
        ValueError, match=r"eval\.dims: .* are in no order of use, .*: leave it out \(eval\.dims=\[\]\)"
    ):
        load([*arguments, "eval.dims=[16]"], "evaluate")
