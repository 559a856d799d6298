"""Every remedy that a message about data names: the message is provoked, then the remedy is applied as it stands there,
and the data are read."""

import gzip
import json
import logging
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data.collection import Collection
from data.formats.remedies import ignoring, setting
from launch.cli.catalog import suggest_fitting_losses
from launch.cli.compose import compose, instantiate, load
from launch.inspect_data import inspect_path
from recipes.checks.data_fit import check_data

WORDS = ("anvil", "bellows", "chisel", "drill", "easel", "file", "gouge", "hammer", "iron", "jig", "knife", "lathe")
QUERIES = [f"what is the {word} for" for word in WORDS]
TEXTS = [f"one uses the {word} in a workshop" for word in WORDS]
PAIRS = [{"query": query, "positive": text} for query, text in zip(QUERIES, TEXTS, strict=True)]


def jsonl(rows: Sequence[object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def rows(**more: object) -> str:
    """The pairs with further columns."""
    return jsonl([{**row, **more} for row in PAIRS])


@dataclass(frozen=True)
class Case:
    """A file and settings that are refused, and what the message says to do: other settings or another text.

    The `message` is a pattern; its group "remedy" is typed as it stands, with `instead` for what it leaves open. In
    `text`, the first pair of `edit` is replaced by the second.
    """

    text: str
    message: str
    settings: tuple[str, ...] = ()
    instead: Mapping[str, str] = field(default_factory=dict)
    edit: tuple[str, str] | None = None
    then: tuple[str, ...] | None = None  # the settings of a remedy in words
    name: str = "rows.jsonl"


IGNORE = r"leave (?:it|them) out \((?P<remedy>.*)\); recognised"
IS = r"say what (?:it|each) is \((?P<remedy>.*), FIELD one of"
GRADED = [{"query": q, "docs": [t, "another"], "labels": [2, 0]} for q, t in zip(QUERIES, TEXTS, strict=True)]
LABELLED = [{"query": q, "document": t, "label": 1} for q, t in zip(QUERIES, TEXTS, strict=True)]
CASES = {
    "unknown column": Case(rows(lang="en"), IGNORE),
    "unknown columns": Case(rows(lang="en", source="web", **{"created at": 3}), IGNORE),
    "column of many signs": Case(rows(**{'say "x", {y}=z\\ $HOME': 1, "语言": 2, "it's": 3, "null": 4}), IGNORE),
    "column without a name": Case(rows(**{"": "no number"}), IGNORE),
    "column that is a field": Case(
        jsonl([{"query": row["query"], "die Antwort": row["positive"]} for row in PAIRS]),
        IS,
        instead={"FIELD": "positive"},
    ),
    "column of other letters": Case(
        jsonl([{"问题": row["query"], "positive": row["positive"]} for row in PAIRS]), IS, instead={"FIELD": "query"}
    ),
    "question, context, answer": Case(
        jsonl([{"question": row["query"], "context": row["positive"], "answer": "yes"} for row in PAIRS]), IGNORE
    ),
    "two columns for a field": Case(
        rows(anchor="x", question="y"), r"leave all but one out, such as (?P<remedy>.*); recognised"
    ),
    "the mapped one stays": Case(
        rows(context="about it"),
        r"such as (?P<remedy>'data.ignore=\[positive\]'); recognised",
        ("data.columns.positive=context",),
    ),
    "too much for a layout": Case(
        rows(document="about tools"), r"what a column is, (?P<remedy>.*) leaves out what is too much"
    ),
    "labels beside positives": Case(rows(label=1), r"what a column is, (?P<remedy>.*) leaves out what is too much"),
    "mapped column that is not there": Case(
        rows(),
        r"data.columns.weight=w is no column of .*: columns are query, positive",
        ("data.columns.weight=w",),
        then=(),
    ),
    "ignored column that is not there": Case(
        rows(), r"data.ignore=lang is no column of .*: columns are query, positive", ("data.ignore=[lang]",), then=()
    ),
    "unknown field": Case(
        jsonl([{"q": row["query"], "positive": row["positive"]} for row in PAIRS]),
        r"data.columns.qurey is no field of a row: valid: query,",
        ("data.columns.qurey=q",),
        then=("data.columns.query=q",),
    ),
    "number as text": Case(
        rows() + '{"query": "year?", "positive": 2024}\n', r"a number\? write it in quotes", edit=("2024", '"2024"')
    ),
    "label below 0": Case(
        jsonl(LABELLED).replace('"label": 1', '"label": -1', 1), r"labels start at 0 .*; shift them", edit=("-1", "0")
    ),
    "lists without labels": Case(
        jsonl(GRADED).replace("labels", "id"), r"add a column of either name", edit=('"id"', '"labels"')
    ),
    "two labels": Case(
        jsonl([*LABELLED, {**LABELLED[0], "label": 0}]),
        r"has the label 0, at .*:1 it is 1; keep one",
        edit=('"label": 0', '"label": 1'),
    ),
    "comma after a row": Case(
        jsonl(PAIRS).replace("}\n", "},\n"), r"remove the comma at the end of the line", edit=("},\n", "}\n")
    ),
    "rows without names": Case(
        '["what is it?", "a hammer"]\n' + rows(),
        r'write it as \{"query": ..., "positive": ...\}',
        edit=('["what is it?", "a hammer"]', '{"query": "what is it?", "positive": "a hammer"}'),
    ),
    "column twice": Case(
        "query,positive,query\n" + "\n".join(f"{q},{t},3" for q, t in zip(QUERIES, TEXTS, strict=True)),
        r"names the column 'query' twice: rename one of them",
        edit=("positive,query", "positive,id"),
        name="rows.csv",
    ),
    "held out too much": Case(
        rows(),
        r"data.test_fraction=1.0 must be in \[0, 1 - data.dev_fraction\)",
        ("data.test_fraction=1.0",),
        then=("data.test_fraction=0.5",),
    ),
    "dev of all": Case(
        rows(),
        r"data.dev_fraction=1.0 must be in \[0, 1\)",
        ("data.dev_fraction=1.0",),
        then=("data.dev_fraction=0.5",),
    ),
    "none held out": Case(
        rows(), r"data.max_held_out=0 must be at least 1", ("data.max_held_out=0",), then=("data.max_held_out=1",)
    ),
    "no run of a file": Case(
        rows(),
        r"put scores beside the documents in the file",
        ("data/candidates=run", "data.candidates.path=x.run"),
        edit=('"}', '", "negative": "another", "pos_scores": 2, "neg_scores": 1}'),
        then=(),
    ),
    "relevance too high": Case(
        jsonl(GRADED),
        r"data.relevant_from=5: no label is that high",
        ("data.relevant_from=5",),
        then=("data.relevant_from=2",),
    ),
    "relevance without labels": Case(
        rows(), r"data.relevant_from=2: no row has a label", ("data.relevant_from=2",), then=()
    ),
    "relevance from 0": Case(
        jsonl(GRADED),
        r"data.relevant_from=0.0 must be above 0",
        ("data.relevant_from=0",),
        then=("data.relevant_from=1",),
    ),
    "language": Case(
        rows(),
        r"data.candidates.language=klingon: .*valid are .*english",
        ("data.candidates.language=klingon",),
        then=("data.candidates.language=english",),
    ),
    "depth": Case(
        rows(),
        r"data.candidates.depth=0 must be at least 1",
        ("data.candidates.depth=0",),
        then=("data.candidates.depth=1",),
    ),
    "positives": Case(
        rows(),
        r"data.lists.positives=0 must be at least 1, or null for no limit",
        ("data.lists.positives=0",),
        then=("data.lists.positives=null",),
    ),
    "random documents": Case(
        rows(),
        r"data.lists.random_fraction=2.0 must be in \[0, 1\]",
        ("data.lists.random_fraction=2",),
        then=("data.lists.random_fraction=1",),
    ),
}


def read(path: Path, settings: Sequence[str]) -> list[str]:
    return report(path, [f"data.cache_dir={path.parent / 'cache'}", *settings])


def report(path: Path, settings: Sequence[str]) -> list[str]:
    """The lines of the report. Raises ValueError with what training refuses."""
    inspection = inspect_path(str(path), settings)
    refused = [finding.message for finding in inspection.findings if finding.name == "refused"]
    if refused:
        raise ValueError(*refused)
    return inspection.lines()


def build(path: Path, settings: Sequence[str]) -> Collection:
    where = [f"data.path={path}", f"data.cache_dir={path.parent / 'cache'}"]
    return instantiate(compose(["data=file", *where, *settings])["data"], "data").build()


@pytest.mark.parametrize("name", CASES)
def test_the_remedy_of_a_message_about_rows_works(name: str, tmp_path: Path):
    case = CASES[name]
    path = tmp_path / case.name
    path.write_text(case.text)
    with pytest.raises(ValueError, match=case.message) as caught:
        build(path, case.settings)
    assert "\n" not in str(caught.value)
    settings = case.settings if case.then is None else case.then
    found = re.search(case.message, str(caught.value))
    assert found is not None
    if "remedy" in found.groupdict():
        typed = found["remedy"]
        for placeholder, value in case.instead.items():
            typed = typed.replace(placeholder, value)
        settings = (*settings, *shlex.split(typed))
    if case.edit is not None:
        assert case.edit[0] in case.text
        path.write_text(case.text.replace(*case.edit))
    assert build(path, settings).split("train").queries


def test_quoted_settings_are_read_back_by_hydra():
    names = [
        'a"b',
        "a\\",
        'a\\"b',
        "it's",
        "a b",
        "a,b",
        "a=b",
        "[a]",
        "{a}",
        "语言",
        "1",
        "true",
        "",
        "ü.x",
        "a: b",
    ]
    [typed] = shlex.split(ignoring(names))
    assert compose(["data=file", "data.path=x", typed])["data"]["ignore"] == names
    for name in names:
        [typed] = shlex.split(setting("data.columns.query", name))
        assert compose(["data=file", "data.path=x", typed])["data"]["columns"] == {"query": name}


@pytest.mark.skipif(shutil.which("iconv") is None, reason="no iconv")
@pytest.mark.parametrize("encoding", ["latin1", "utf-16-le", "utf-16-be"])
def test_the_command_that_converts_a_text_works(encoding: str, tmp_path: Path):
    path = tmp_path / "a folder" / "rows.jsonl"
    path.parent.mkdir()
    path.write_bytes(rows().replace("hammer", "Hämmer").encode(encoding))
    with pytest.raises(ValueError, match=r"\(iconv -f") as caught:
        read(path, ())
    command = re.search(r"\((iconv [^)]+)\)", str(caught.value))
    assert command is not None
    subprocess.run(command[1], shell=True, check=True)
    converted = tmp_path / "a folder" / "rows-utf8.jsonl"
    assert "Hämmer" in converted.read_text()
    assert read(converted, ())[0].endswith("12 rows, positive pairs")


@pytest.mark.skipif(shutil.which("iconv") is None, reason="no iconv")
@pytest.mark.parametrize("packed", [False, True])
def test_the_command_names_the_encoding_that_fits(packed: bool, tmp_path: Path):
    """Quotes of Windows-1252 lie in a later line than the first that is not UTF-8."""
    content = "query,positive\nwas ist der Hämmer?,ein Werkzeug\nzwei,„so“ — sagt er\n".encode("cp1252")
    path = tmp_path / f"it's.csv{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=r":2: not UTF-8 .*iconv -f cp1252 -t utf8.*\(latin1, ") as caught:
        read(path, ())
    command = re.search(r"\(((?:gzip|iconv) [^)]+)\)", str(caught.value))
    assert command is not None
    subprocess.run(command[1], shell=True, check=True)
    assert "„so“ — sagt er" in (tmp_path / "it's-utf8.csv").read_text()


def test_files_of_their_own_for_several_lists(tmp_path: Path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"train": PAIRS[:8], "test": PAIRS[8:]}))
    with pytest.raises(ValueError, match=r"holds rows under train and test: write each list to a file of its own"):
        read(path, ())
    for name, part in (("train", PAIRS[:8]), ("test", PAIRS[8:])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    lines = read(tmp_path / "train.json", [f"data.test_path={tmp_path / 'test.json'}"])
    assert any("test 4" in line for line in lines)


def test_names_and_folders_that_hold_the_data(tmp_path: Path):
    (tmp_path / "splits" / "train").mkdir(parents=True)
    (tmp_path / "splits" / "train" / "rows.txt").write_text(rows())
    with pytest.raises(ValueError, match=r"rows.txt: the name must end in .*\.jsonl"):
        read(tmp_path / "splits" / "train" / "rows.txt", ())
    (tmp_path / "splits" / "train" / "rows.txt").rename(tmp_path / "splits" / "train" / "rows.jsonl")
    with pytest.raises(FileNotFoundError, match=r"its folders hold some: choose one \((?P<folder>.*)\)$") as caught:
        read(tmp_path / "splits", ())
    chosen = re.search(r"choose one \((.*)\)$", str(caught.value))
    assert chosen is not None
    assert "12 rows" in read(Path(chosen[1]), ())[0]
    (tmp_path / "beir").mkdir()
    (tmp_path / "beir" / "corpus.jsonl").write_text("")
    with pytest.raises(ValueError, match=rf"data=beir data.path={tmp_path}/beir$"):
        build(tmp_path / "beir", ())


def test_a_cache_that_is_broken_or_cannot_be_written(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(rows())
    read(path, ())
    cached = list((tmp_path / "cache" / "candidates").glob("bm25-*.npz"))
    for file in cached:
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is broken \(.*\): remove it, and it is made again"):
        read(path, ())
    for file in cached:
        file.unlink()
    assert "12 rows" in read(path, ())[0]
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match=r"data.cache_dir: .* cannot be written \(.*\); choose another folder"):
        report(path, [f"data.cache_dir={tmp_path / 'taken'}"])
    assert "12 rows" in report(path, [f"data.cache_dir={tmp_path / 'free'}"])[0]


def test_queries_that_are_held_out_in_another_file(tmp_path: Path):
    path, settings = tmp_path / "rows.jsonl", [f"data.test_path={tmp_path / 'test.jsonl'}"]
    path.write_text(rows())
    (tmp_path / "test.jsonl").write_text(rows())
    with pytest.raises(ValueError, match=r"so none is left; give train other queries, or take these out of there"):
        build(path, settings).split("train")
    (tmp_path / "test.jsonl").write_text(jsonl(PAIRS[:3]))
    assert {name: len(split.queries) for name, split in build(path, settings).splits.items()} == {
        "train": 8,
        "dev": 1,
        "test": 3,
    }


def built(tmp_path: Path, *settings: str) -> tuple[object, Collection]:
    run = load(["+exp=reranker_listwise", "data=file", f"data.path={tmp_path / 'rows.jsonl'}", *settings])
    return run, run.data.build()


def test_pairs_for_a_reranker_get_negatives_by_what_the_message_names(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(rows())
    cache = f"data.cache_dir={tmp_path}"
    with pytest.raises(ValueError, match=r"training lists lack comparison") as caught, suggest_fitting_losses():
        check_data(*built(tmp_path, cache))
    remedies = re.findall(r"data/candidates=\w+|data\.lists\.\w+=[\d.]+", str(caught.value))
    assert remedies == ["data/candidates=bm25", "data.lists.random_fraction=0.5"]
    for remedy in remedies:
        check_data(*built(tmp_path, cache, remedy))
    named = [line for line in read(tmp_path / "rows.jsonl", ()) if line.startswith("for more losses: ")]
    assert len(named) == 1
    for remedy in remedies:
        assert remedy in named[0]
        fits = next(line for line in read(tmp_path / "rows.jsonl", [remedy]) if line.startswith("losses that fit: "))
        assert "lambda_rank" in fits


def test_pairs_of_a_mixture_get_negatives_by_keys_that_exist(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(rows())
    (tmp_path / "more.jsonl").write_text(rows(neg="another"))
    mixture = [
        *("+exp=reranker_listwise", "data=mixture"),
        *("+data@data.sources.a=file", f"data.sources.a.path={tmp_path / 'rows.jsonl'}"),
        *("+data@data.sources.b=file", f"data.sources.b.path={tmp_path / 'more.jsonl'}"),
        *(f"data.sources.{name}.cache_dir={tmp_path}" for name in "ab"),
        *("data.evaluate_on=b", "data.sources.b.max_held_out=1"),
    ]
    run = load(mixture)
    with pytest.raises(ValueError, match=r"training lists lack comparison") as caught:
        check_data(run, run.data.build())
    remedies = re.findall(r"data/candidates@[\w.]+=\w+|data\.sources\.\w\.lists\.\w+=[\d.]+", str(caught.value))
    assert len(remedies) == 2
    for remedy in remedies:
        run = load([*mixture, remedy])
        check_data(run, run.data.build())


def test_settings_that_a_line_names_while_data_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    own = [{"query": t, "positive": f"{t} indeed"} for t in TEXTS] + [{"query": "which text?", "positive": TEXTS[0]}]
    (tmp_path / "rows.jsonl").write_text(jsonl(own))
    with caplog.at_level(logging.WARNING):
        read(tmp_path / "rows.jsonl", ())
        assert (
            "itself a document, which is left out of its ranking (data.rank_own_document=true ranks it)" in caplog.text
        )
        caplog.clear()
        read(tmp_path / "rows.jsonl", ["data.rank_own_document=true"])
        assert "itself a document" not in caplog.text
