"""Query and documents in, a ranked list out, with sentence-transformers' scores."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.formats.documents import read_documents
from launch.cli import errors
from launch.rerank import OPTION_NAMES, Row, main, table
from models.loading.folder import OF_KIND

QUERY = "how are tokens counted"
TEXTS = ["count the tokens of a text", "a list of numbers", "open a file and read its lines", "tokens"]


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("raw", [False, True])
def test_scores_equal_sentence_transformers(tiny_reranker_dir, capsys, raw):
    from sentence_transformers import CrossEncoder
    from torch import nn

    main([str(tiny_reranker_dir), "--query", QUERY, "--json", *(["--raw"] if raw else []), *TEXTS])
    results = json.loads(capsys.readouterr().out)["results"]
    oracle = CrossEncoder(str(tiny_reranker_dir), device="cpu")
    kwargs = {"activation_fn": nn.Identity()} if raw else {}
    expected = oracle.predict([(QUERY, text) for text in TEXTS], show_progress_bar=False, **kwargs)
    assert [row["score"] for row in results] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-5)
    assert {row["id"]: row["score"] for row in results} == pytest.approx(
        {str(number): score for number, score in enumerate(expected.tolist(), start=1)}, abs=1e-5
    )
    assert [row["rank"] for row in results] == [1, 2, 3, 4]


def test_top_k_shortens_the_table(tiny_reranker_dir, write, capsys):
    file = write("documents.txt", "\n\n".join(TEXTS))
    main([str(tiny_reranker_dir), "--query", QUERY, "--documents", file, "--top-k", "2", "one more"])
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_table_is_cut_to_the_terminal():
    rows = [Row(1, 0.75, "a", "word " * 40), Row(2, -11.5, "long-id", "two\nlines")]
    lines = table(rows, width=60)
    assert max(map(len, lines)) == 60
    assert lines[2] == "   2  -11.5000  long-id  two lines"


def test_documents_are_read_from_every_format(write, monkeypatch):
    lines = write("a.jsonl", '{"_id": "x", "title": "T", "text": "one"}\n\n{"text": "two"}\n')
    entries = write("a.json", '["one", {"id": 7, "text": "two"}]')
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n"))
    pairs = [
        [(d.id, d.text) for d in read_documents(file)] for file in (lines, entries, write("a.txt", "one\ntwo"), "-")
    ]
    assert pairs == [
        [("x", "T one"), ("3", "two")],
        [("1", "one"), ("7", "two")],
        [("1", "one"), ("2", "two")],
        [("1", "one"), ("2", "two")],
    ]


def test_documents_are_read_from_tables(write, tmp_path):
    import pyarrow
    from pyarrow import parquet

    files = [
        write("a.csv", 'title,text,_id\nT,"one, or ""1""",x\n,two,y\nonly a title,,z\n'),
        write("a.tsv", 'Text\tTitle\t_id\none, or "1"\tT\tx\ntwo\t\ty\n\tonly a title\tz\n'),
        write("a.CSV", 'title,text,_id\nT,"one, or ""1""",x\n,two,y\nonly a title,,z\n'),
        str(tmp_path / "a.parquet"),
    ]
    columns = {"title": ["T", None, "only a title"], "document": ['one, or "1"', "two", ""], "_id": ["x", "y", "z"]}
    parquet.write_table(pyarrow.table(columns), files[-1])
    for file in files:
        assert [(d.id, d.text) for d in read_documents(file)] == [
            ("x", 'T one, or "1"'),
            ("y", "two"),
            ("z", "only a title"),
        ]
    assert [(d.id, d.text) for d in read_documents(write("b.csv", "text\none\ntwo\n"))] == [("1", "one"), ("2", "two")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": 3}\n', r"a.jsonl:2: 'text' must be of type str, got int"),
        ("a.jsonl", '{"text": "one"}\n{"txt": "two"}\n', r"a.jsonl:2: no key 'text'"),
        ("a.jsonl", '{"text": "one"}\n{"text"\n', r"a.jsonl:2: malformed JSON"),
        ("a.json", '["one",\n}', r"a.json:2: malformed JSON"),
        ("a.json", '{"a": 1}', r"a.json: expected a list of texts or objects, got dict"),
        ("a.json", '["one", 2]', r"a.json: entry 2: expected a text or an object, got int"),
        ("a.txt", "", r"no documents"),
        ("a.csv", "id,body\n1,one\n", r"a.csv: no column text \(its header has: 'id', 'body'\): name the columns text"),
        ("a.tsv", "d1\tone\nd2\ttwo\n", r"a.tsv: no column text \(its header has: 'd1', 'one'\)"),
        ("a.csv", "id,text\n1\n", r"a.csv:2: expected 2 cells"),
        ("a.pdf", "%PDF-1.7\n", r"a.pdf: .pdf files are not read: give .txt"),
        ("a.xlsx", "PK", r"a.xlsx: .xlsx files are not read: give .txt"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(write, name, content, message):
    with pytest.raises(ValueError, match=message):
        main(["nowhere", "--query", QUERY, "--documents", write(name, content)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "text"], "required: --query"),
        (["model", "text", "--query", " "], "--query is empty"),
        (["model", "text", "--query", "q", "--top-k", "0"], "--top-k must be at least 1, got 0"),
        (["model", "text", "--query", "q", "--top-k", "x"], "invalid int value: 'x'"),
        (["model", "--query", "q", "--documents", "nowhere.txt"], "--documents nowhere.txt: no such file"),
        (["model", "--query", "q", "--documents", "."], "--documents .: is a directory"),
        (["model", "text", "--query", "bad \udcff"], "--query: not UTF-8 at character 5"),
        (["model", "--query", "q", "--", "fine", "\udcff"], "document '2': not UTF-8 at character 2"),
        (["./nowhere", "text", "--query", "q"], "nowhere: no such folder"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message):
    with pytest.raises((ValueError, OSError)) as caught:
        main(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_ends_with_one_line_that_names_its_own_flags(tmp_path, tiny_reranker_dir):
    script = Path(__file__).parents[2] / "launch" / "rerank.py"
    command = [sys.executable, str(script), str(tiny_reranker_dir), "text", "--query", QUERY, "--max-length", "4000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --max-length=4000: ")
    assert len(done.stderr.splitlines()) == 1


def test_messages_about_models_name_the_flags_of_this_command(
    tmp_path, tiny_bert_dir, tiny_models, monkeypatch, capfd, caplog
):
    monkeypatch.setattr(errors.process, "option_names", OPTION_NAMES)

    def message(*arguments: str) -> str:
        """The one line that the command says."""
        with pytest.raises(ValueError) as caught:
            main([*arguments, "--query", QUERY])
        assert (capfd.readouterr(), caplog.messages) == (("", ""), [])
        return errors.explain(caught.value)

    causal = str(tiny_models.write_tiny_causal(tmp_path / "causal"))
    capfd.readouterr()
    line = message(causal, "text", "--template", "mxbai", "--max-length", "40")
    assert line.startswith("--max-length=40: the prompt takes ")
    line = message(causal, "text")  # and no line on its padding, by which it would not be read
    assert "it has no score head: name the template that it was trained with, --template NAME, one of" in line
    line = message(str(tiny_bert_dir), "text")
    assert f"`python launch/evaluate.py model=bi_encoder model.name_or_path={tiny_bert_dir}`" in line
    assert "model.max_length" not in line


@pytest.mark.parametrize("start", list(OPTION_NAMES))
def test_the_words_that_the_flags_replace_are_those_of_the_code(start):
    root = Path(__file__).parents[2]
    files = [file for name in ("models", "launch/cli", "inference") for file in (root / name).rglob("*.py")]
    code = "".join(file.read_text() for file in files)
    words = re.sub(r'"\s*\n\s*f?"', "", code)
    built = [f"choose model={kind}" for kind in OF_KIND.values()]  # of the class that a folder names
    assert start in built or start in re.sub(r"\{', '.join\(TEMPLATES\)\}", "", words)
