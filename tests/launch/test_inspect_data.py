"""The report on a data file, and the losses that fit it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from data.collection import JUDGED_LISTS
from data.formats.file import FileConfig
from launch.cli.catalog import configured_losses, fitting_losses, suggest_fitting_losses
from launch.inspect_data import inspect_path, main
from losses.contracts import REQUIREMENTS, MissingRequirements, missing_requirements, requirements
from runs.source_tree import CONF

ENTRY = CONF.parent / "launch" / "inspect_data.py"
PAIRS = [{"question": f"what is number {i}", "answer": f"a number above {i - 1}"} for i in range(20)]
LABELLED = [{"query": f"question {i // 2}", "document": f"text {i}", "label": i % 2} for i in range(40)]
TEACHER = [{"query": f"q{i}", "docs": [f"x{i}", f"y{i}"], "scores": [i, 2.5]} for i in range(9)]


@pytest.fixture
def write(tmp_path):
    def write(rows: list[dict], name: str = "rows.jsonl") -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


@pytest.fixture
def report(write, tmp_path, capsys):
    """`report(rows, *settings)`: {what stands before a line's colon: the rest}."""

    def report(rows: list[dict], *settings: str) -> dict[str, str]:
        main([write(rows), f"data.cache_dir={tmp_path}", *settings])
        return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if line[0] != " ")

    return report


def test_positive_pairs(report, tmp_path):
    lines = report(PAIRS)
    assert lines[f"{tmp_path}/rows.jsonl"] == "20 rows, positive pairs"
    assert lines["queries"].startswith("train 16, dev 2, test 2")
    assert lines["documents per list"] == "1"
    assert lines["documents"] == "20 different texts, 0 of them in several lists"
    assert lines["training lists give"] == f"positive ({REQUIREMENTS['positive']})"
    fit = lines["losses that fit"].split(", ")
    assert "info_nce" in fit
    assert "lambda_rank" not in fit
    assert "lambda_rank" in lines["losses that do not fit, they need comparison"].split(", ")
    assert lines[f"{tmp_path}/rows.jsonl:2"] == "query: what is number 1"


def test_unknown_columns_are_those_of_the_header(tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\nwho;what\nx;y\n")
    with pytest.raises(ValueError, match=r"a\.csv:2: unknown columns 'who', 'what'"):
        inspect_path(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("who;what\nx;y\n")
    with pytest.raises(ValueError, match=r"a\.csv:1: unknown columns 'who', 'what'"):
        inspect_path(str(tmp_path / "a.csv"))


def test_a_text_file_that_is_no_table(tmp_path):
    file = tmp_path / "e.txt"
    file.write_text("")
    with pytest.raises(ValueError, match=r"e.txt: it is empty$"):
        inspect_path(str(file))
    file.write_text("a line\n")
    with pytest.raises(
        ValueError, match=r"the name must end in .*, .trec.*; .txt is for the tables of TREC and MS MA"
    ) as said:
        inspect_path(str(file))
    assert "end in .arrow" in str(said.value)
    assert ".txt," not in str(said.value)


def test_labelled_pairs(report):
    lines = report(LABELLED)
    assert lines["labels"] == "0: 20, 1: 20"
    assert lines["documents per list"] == "2"
    assert {"bce", "lambda_rank", "info_nce", "dpo"} <= set(lines["losses that fit"].split(", "))
    alone = report(LABELLED, "trainer.list_size=1")["losses that fit"].split(", ")
    assert "info_nce" in alone
    assert not {"bce", "lambda_rank"} & set(alone)  # of one document a list holds the relevant one


def test_teacher_lists(report, tmp_path):
    lines = report(TEACHER)
    assert lines[f"{tmp_path}/rows.jsonl"] == "9 rows, teacher lists with teacher scores"
    assert lines["teacher scores in 9 of 9 rows"].startswith("0 to 8 (5 %: ")
    assert "kl_distillation" in lines["losses that fit"].split(", ")
    assert "margin_mse" in lines["losses that do not fit, they need comparison"].split(", ")


def test_own_columns(report):
    rows = [{"title": row["question"], "body": row["answer"], "lang": "en"} for row in PAIRS]
    lines = report(rows, "data.columns={query: title, positive: body}", "data.ignore=[lang]")
    assert "info_nce" in lines["losses that fit"]


def test_a_mistake_is_one_line_and_a_failure(write, tmp_path):
    file = write([*PAIRS[:3], {"question": "x", "answer": 5}])
    run = subprocess.run([sys.executable, ENTRY, file], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (1, "")
    message = "'answer' must be a text, got int (a number? write it in quotes)"
    assert run.stderr == f"error: {file}:4: {message} (data.on_error=skip leaves such rows out)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.jsonl"], "data.path=nope.jsonl: no such file or folder"),
        (["x.jsonl", "data.colums.query=x"], "data.colums is not an option: did you mean columns?"),
        ([], "the following arguments are required: PATH"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message):
    with pytest.raises((ValueError, OSError)) as error:
        main(arguments)
    assert str(error.value).startswith(message)


def test_a_folder_in_beir_s_layout_is_found_by_content(tiny_beir_dir, tmp_path):
    given = [f"data.cache_dir={tmp_path}"]
    for place in (tiny_beir_dir, tiny_beir_dir / "corpus.jsonl", tiny_beir_dir / "queries.jsonl"):
        inspection = inspect_path(str(place), given)
        assert inspection.size == "60 documents, 36 queries, 36 judgements"
        assert inspection.reason.endswith(
            "corpus.jsonl, queries.jsonl and qrels/train.tsv, qrels/dev.tsv, qrels/test.tsv"
        )
        options = FileConfig(path=str(place))
        for read in (options.build, options.places):
            with pytest.raises(ValueError, match=f"^data.path={place} is a collection .*data.path={tiny_beir_dir}$"):
                read()


def test_every_configured_loss_says_what_it_needs():
    assert set(configured_losses()) == {file.stem for file in (CONF / "loss").glob("*.yaml")}
    assert all(requirements(loss) <= set(REQUIREMENTS) for loss in configured_losses().values())
    assert set(REQUIREMENTS) > JUDGED_LISTS
    assert fitting_losses(frozenset(REQUIREMENTS)) == sorted(configured_losses())
    assert missing_requirements(configured_losses()["margin_mse"], {"several"}) == ["comparison", "teacher_scores"]


def test_losses_that_read_one_vector_do_not_fit_a_model_of_several(write, tiny_bert_dir):
    path, model = str(write(PAIRS)), ["model=late_interaction", f"model.name_or_path={tiny_bert_dir}"]
    losses = inspect_path(path, model).losses
    assert {"info_nce", "info_nce_symmetric"} <= set(losses.fit)
    assert {"gist", "qwen3", "arcface"} < set(losses.others["a model with one vector per text"])
    assert "embedding_distillation" in losses.others["a model with one vector per text"]
    assert not {"info_nce", "cosent"} & set(losses.others["a model with one vector per text"])
    assert "a model with one vector per text" not in inspect_path(path, ["model=bi_encoder"]).losses.others
    refused = inspect_path(path, [*model, "loss=arcface"]).findings
    assert any("needs one vector per text, which the model does not give" in finding.message for finding in refused)


def test_a_loss_of_token_vectors_does_not_fit_a_model_of_one_vector(write, tiny_bert_dir):
    path, name, what = str(write(PAIRS)), f"model.name_or_path={tiny_bert_dir}", "a vector per token"
    assert "xtr" in inspect_path(path).losses.fit
    assert "xtr" in inspect_path(path, ["model=late_interaction", name]).losses.fit
    assert "xtr" in inspect_path(path, ["model=bi_encoder", name]).losses.others[f"a model with {what}"]
    refused = inspect_path(path, ["model=bi_encoder", name, "loss=xtr"]).findings
    assert any(f"needs {what}, which the model does not give" in finding.message for finding in refused)


def test_losses_of_first_dimensions_do_not_fit_a_model_without_an_order_of_them(write, tiny_bert_dir):
    path, model = str(write(PAIRS)), ["model=sparse_encoder", f"model.name_or_path={tiny_bert_dir}"]
    losses, what = inspect_path(path, model).losses, "dimensions of which the first may be used alone"
    assert "matryoshka" in losses.others[f"a model with {what}"]
    assert "info_nce" in losses.fit
    refused = inspect_path(path, [*model, "loss=matryoshka"]).findings
    assert any(f"needs {what}, which the model does not give" in finding.message for finding in refused)


def test_a_loss_that_does_not_fit_is_refused_with_those_that_do(write):
    data = FileConfig(path=write(PAIRS)).build()
    losses = configured_losses()
    assert not missing_requirements(losses["info_nce"], data.available)
    refused = pytest.raises(
        ValueError,
        match=r"^loss LambdaLoss does not fit data rows.jsonl, whose training lists lack comparison \(lists with two "
        r"documents of different labels\); losses that fit: .*info_nce",
    )
    with refused as caught, suggest_fitting_losses():
        raise MissingRequirements(losses["lambda_rank"], data.available, data.name, outputs={"embedding"})
    assert "lambda_rank" not in str(caught.value).partition("that fit")[2].split(", ")


def test_what_files_give_has_known_names(write, tmp_path):
    for rows in (PAIRS, LABELLED, TEACHER):
        data = FileConfig(path=write(rows), cache_dir=str(tmp_path)).build()
        assert data.available <= set(REQUIREMENTS)


def test_a_setting_in_the_place_of_the_path_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data=documents: the path of the data comes first: .* PATH data=documents"):
        inspect_path("data=documents", [f"data.path={tmp_path}"])
