"""launch/choose.py on a tiny collection: what is chosen and why, what is written, what is measured again, mistakes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from models.bi_encoder import BiEncoderConfig
from models.sparse.sparse_encoder import SparseEncoderConfig
from recipes.choose.page import page
from recipes.choose.run import choose
from recipes.choose.table import main_table

WORDS = "red green blue apple pear train rank list query document python returns value".split()  # noqa: SIM905
NUMBERS = re.compile(r"\d[\d,]*\.?\d*")


@pytest.fixture(scope="module")
def beir(tmp_path_factory) -> Path:
    """40 documents of words in two orders; the query of each is its words without the number that BM25 would find."""
    folder = tmp_path_factory.mktemp("data") / "tinyset"
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join([WORDS[i % 13], WORDS[(i * 5 + 2) % 13], WORDS[(i * 7 + i // 13) % 13]] * 3) for i in range(40)]
    for name, rows in (
        ("corpus", [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]),
        ("queries", [{"_id": f"q{i}", "text": " ".join(text.split()[:3])} for i, text in enumerate(texts[:14])]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(14))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def embedders(tmp_path_factory, tiny_bert_dir) -> dict[str, Path]:
    """Two exports: the second reads 8 tokens, and its card says a licence and these data."""
    root = tmp_path_factory.mktemp("models")
    BiEncoderConfig(str(tiny_bert_dir)).build(0).export(root / "whole")
    BiEncoderConfig(str(tiny_bert_dir), max_length=8).build(0).export(root / "short")
    (root / "short" / "README.md").write_text("---\nlicense: mit\ndatasets: [owner/tinyset]\n---\n")
    return {name: root / name for name in ("whole", "short")}


def settings_of(beir: Path, models: list[Path], output: Path, *more: str):
    names = ",".join(map(str, models))
    place = [f"data.path={beir}", f"data.cache_dir={beir.parent / 'cache'}", f"output={output}"]
    return load(["data=beir", *place, f"models=[{names}]", "eval.dims=[16]", *more], "choose")


@pytest.fixture(scope="module")
def chosen(beir, embedders, tmp_path_factory):
    """One choice, its folder and its content."""
    folder = tmp_path_factory.mktemp("choice") / "out"
    choose(settings_of(beir, list(embedders.values()), folder))
    return folder, json.loads((folder / "choose.json").read_text())


def test_bm25_is_always_in_and_every_row_has_a_verdict_and_a_reason(chosen):
    _, summary = chosen
    assert [row["label"] for row in summary["models"]] == ["bm25", "whole", "short"]
    verdicts = summary["decision"]["verdicts"]
    assert list(verdicts) == ["bm25", "whole", "short"]
    assert all(each["reason"] for each in verdicts.values())
    assert sum(each["verdict"] == "chosen" for each in verdicts.values()) == 1
    best = max(summary["models"], key=lambda row: row["metrics"]["nDCG@10"])
    assert summary["decision"]["best"] == best["label"]


def test_the_seven_factors_are_measured(chosen):
    _, summary = chosen
    whole, short = summary["models"][1:]
    assert (whole["truncated"]["documents"], short["truncated"]["documents"]) == (0.0, 1.0)
    assert "windows" not in whole
    assert short["windows"]["more_windows"] == 40
    assert short["windows"]["texts_factor"] == 1 + short["windows"]["more_windows"] / 40
    assert whole["texts"]["document_tokens"]["p50"] == 9
    assert whole["texts"]["tokens_per_word"] == 1.0
    assert 0 < whole["texts"]["vocabulary_used"] < 1
    assert [form["form"] for form in whole["forms"]] == [
        "fp32",
        "int8",
        "binary",
        "dim16",
        "dim16/int8",
        "dim16/binary",
    ]
    assert [form["index_bytes"] for form in whole["forms"]] == [40 * n for n in (128, 32, 4, 64, 16, 2)]
    assert whole["cost"]["query_ms_p95"] >= whole["cost"]["query_ms_p50"] > 0
    assert (whole["declared"]["licence"], short["declared"]["licence"]) == (None, "mit")
    assert any("short was trained on owner/tinyset (its card)" in line for line in summary["warnings"])


def test_every_number_of_the_table_and_of_the_page_is_a_line_of_the_json(chosen, beir, embedders, capsys):
    folder, summary = chosen
    assert page(summary) == (folder / "choose.html").read_text(), "the page shows what the file holds, and nothing else"
    choose(settings_of(beir, list(embedders.values()), folder))
    out = capsys.readouterr().out
    header, cells = main_table(summary)
    for label, *numbers in cells:
        line = next(line for line in out.splitlines() if line.startswith(f"{label} "))
        assert [" ".join(part.split()) for part in re.split(r"  +", line)] == [label, *numbers]
    assert header[2] == "nDCG@10"
    for row, own in zip(summary["models"], cells, strict=True):  # and the cells are its values
        assert own[2] == f"{row['metrics']['nDCG@10']:.4f}"
        assert own[3] == "{:.3f}-{:.3f}".format(*row["intervals"]["nDCG@10"])
        for place, key in ((5, "query_ms_p50"), (6, "query_ms_p95"), (7, "documents_per_s")):
            assert float(own[place].replace(",", "")) == pytest.approx(row["cost"][key], rel=0.1, abs=1e-3)
        assert summary["decision"]["verdicts"][row["label"]]["reason"] in " ".join(out.split())


def test_each_model_has_its_rankings_and_values(chosen):
    folder, summary = chosen
    for row in summary["models"]:
        own = folder / "models" / row["label"]
        lines = [json.loads(line) for line in (own / "queries.jsonl").read_text().splitlines()]
        assert sum(line["nDCG@10"] for line in lines) / len(lines) == pytest.approx(row["metrics"]["nDCG@10"])
        assert len((own / "model.run").read_text().splitlines()) > 14
    assert (folder / "models" / "short" / "windows.run").is_file()


def test_a_model_that_is_done_is_not_measured_again_and_a_broken_one_is(chosen, beir, embedders, tmp_path, monkeypatch):
    folder, summary = chosen
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "models" / "short" / "measured.json"
    file.write_text(file.read_text().replace('"parameters"', '"parameter"'))
    measured = []
    import recipes.choose.run as run

    real = run.measure_model
    monkeypatch.setattr(run, "measure_model", lambda bench, entry: measured.append(entry.label) or real(bench, entry))
    again = choose(settings_of(beir, list(embedders.values()), copy))
    assert measured == ["short"]
    assert again["models"][1]["cost"] == summary["models"][1]["cost"]
    choose(settings_of(beir, list(embedders.values()), copy, "eval.max_queries=10"))
    assert measured == ["short", "whole", "short"], "other settings"


def test_limits_eliminate_with_their_reason(chosen, beir, embedders, tmp_path):
    folder, _ = chosen
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    limits = ["limit.licence=[mit]", "limit.index_bytes=1000", "limit.query_ms_p50=1e6", "form_loss=0"]
    decision = choose(settings_of(beir, list(embedders.values()), copy, *limits))["decision"]
    verdicts = decision["verdicts"]
    assert verdicts["whole"]["verdict"] == "eliminated"
    assert "licence is not known" in verdicts["whole"]["reason"]
    assert verdicts["bm25"]["verdict"] == "eliminated"
    assert "above limit.index_bytes=1000" in verdicts["bm25"]["reason"]
    assert decision["chosen"] == "short"
    assert verdicts["short"]["form"] == "dim16/int8", "the largest form that keeps the limit"
    none = choose(settings_of(beir, list(embedders.values()), copy, "limit.quality=1.1"))["decision"]
    assert none["chosen"] is None
    assert none["sentence"] == "no model keeps all limits"


def test_a_model_that_fails_has_its_line_and_the_others_go_on(beir, embedders, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(embedders["whole"], broken)
    weights = load_file(broken / "model.safetensors")
    save_file({name: value * float("nan") for name, value in weights.items()}, broken / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 of 2 models failed: broken: .*choose.html"):
        choose(settings_of(beir, [broken, embedders["whole"]], tmp_path / "out", "eval.max_queries=6"))
    summary = json.loads((tmp_path / "out" / "choose.json").read_text())
    assert summary["decision"]["verdicts"]["broken"]["verdict"] == "failed"
    assert summary["models"][2]["metrics"]


def test_rerankers_reorder_the_candidates_of_bm25(beir, tiny_reranker_dir, tmp_path):
    more = ["eval.dims=null", "eval.depth=5", "windows=always"]
    summary = choose(settings_of(beir, [tiny_reranker_dir], tmp_path / "out", *more))
    bm25, reranker = summary["models"]
    assert summary["kind"] == "rerankers"
    assert bm25["recall_ceiling"] >= reranker["metrics"]["recall@10"] > 0
    assert reranker["forms"] == []
    assert reranker["index_bytes"] == bm25["index_bytes"]
    assert reranker["windows"]["more_windows"] == 0


def test_documents_alone_give_pairs_and_it_is_said(embedders, tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(12):
        words = " ".join(WORDS[(number + place) % 13] for place in range(40))
        (folder / f"n{number}.md").write_text(f"# About {WORDS[number]} {WORDS[-number]}\n\n{words}.\n")
    more = [f"data.path={folder}", f"data.cache_dir={tmp_path}", "data.test_fraction=0.4", "data.near_duplicate=null"]
    models = f"models=[{embedders['whole']}]"
    summary = choose(load(["data=documents", *more, models, f"output={tmp_path / 'out'}"], "choose"))
    assert summary["judgements"] == "made from the documents"
    assert "no judgements were given" in summary["warnings"][0]


def _on_two_ranks(*arguments):
    settings = settings_of(*arguments)
    return choose(settings)["models"][1]["metrics"]


def test_two_ranks_give_the_figures_of_one(chosen, beir, embedders, tmp_path):
    _, summary = chosen
    found = run_ranks(_on_two_ranks, 2, beir, [embedders["whole"]], tmp_path / "out")
    assert found[0] == found[1] == pytest.approx(summary["models"][1]["metrics"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["limit.index_byte=5"], "limit.index_byte is not measured: did you mean index_bytes?"),
        (["cost_by=query_ms"], "cost_by=query_ms: did you mean"),
        (["model@of=bm25"], "model@of=bm25: BM25 is always measured"),
        (["eval.precision=[int4]"], "eval.precision"),
        (["output=nowhere/out"], "the folder nowhere does not exist"),
        (["price={other: 1}"], "price=other: valid: whole, "),
        (["models=[bm25]"], "models names no model beside BM25"),
        (["models=[./nowhere]"], "./nowhere: no such folder"),
        (["model@of=bi_encoder", "of.name_or_path=mine"], "of.name_or_path=mine is not read"),
        (
            ["split=validation"],
            "no validation split: add its judgements, or choose split=test; without judgements, data=d",
        ),
    ],
)
def test_mistakes_are_one_line_before_anything_is_measured(beir, embedders, tmp_path, monkeypatch, more, message):
    monkeypatch.setattr("recipes.choose.run.measure_bm25", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises((ValueError, OSError)) as error:
        choose(settings_of(beir, [embedders["whole"]], tmp_path / "out", *more))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_two_spellings_of_a_folder_are_one_model(beir, embedders, tmp_path):
    again = embedders["short"].parent / "whole" / ".." / "whole"
    with pytest.raises(ValueError, match=r"models names .*whole twice, as .*: give each once"):
        choose(settings_of(beir, [embedders["whole"], again], tmp_path / "out"))


def test_the_remedy_for_a_model_names_the_option_of_this_command(beir, tiny_causal_dir, tmp_path):
    with pytest.raises(ValueError, match=r"no prompt template: set of\.template to mxbai"):
        choose(settings_of(beir, [tiny_causal_dir], tmp_path / "out", "model@of=llm_reranker"))


@pytest.mark.parametrize("more", ["eval.dims=[8]", "limit.dimension=8"])
def test_rerankers_have_no_dimensions(beir, tiny_reranker_dir, tmp_path, more):
    with pytest.raises(ValueError, match=r"=.*8.* is of vectors, which rerankers do not have: leave it out"):
        choose(settings_of(beir, [tiny_reranker_dir], tmp_path / "out", "eval.dims=null", more))


def test_dimensions_that_no_model_has_are_warned_of(chosen, beir, embedders, tmp_path):
    summary = choose(settings_of(beir, [embedders["whole"]], tmp_path / "out", "eval.dims=[16,999]"))
    assert any("eval.dims=[999]: no model has more than" in line for line in summary["warnings"])


def test_an_embedder_and_a_reranker_do_different_work(beir, embedders, tiny_reranker_dir, tmp_path):
    with pytest.raises(ValueError, match="choose among one kind at a time"):
        choose(settings_of(beir, [embedders["whole"], tiny_reranker_dir], tmp_path / "out"))


def test_a_sparse_encoder_is_measured_by_its_inverted_index(beir, embedders, tiny_bert_dir, tmp_path):
    """Its one form has the bytes of the values that are not 0, as the dense vectors of others have theirs."""
    options = SparseEncoderConfig(str(tiny_bert_dir), query_terms=5, document_terms=5)
    options.build(0).export(tmp_path / "sparse")
    choose(settings_of(beir, [tmp_path / "sparse", embedders["whole"]], tmp_path / "out", "windows=never"))
    rows = {row["label"]: row for row in json.loads((tmp_path / "out" / "choose.json").read_text())["models"]}
    sparse, dense = rows["sparse"], rows["whole"]
    assert [form["form"] for form in sparse["forms"]] == ["fp32"]
    assert len(dense["forms"]) > 1
    lists = sparse["dimension"] + 1
    assert sparse["index_bytes"] == sparse["forms"][0]["index_bytes"] == 40 * 5 * 8 + 4 * lists
    assert 0 < sparse["metrics"]["nDCG@10"] <= 1
