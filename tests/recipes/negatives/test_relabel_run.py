"""launch/relabel.py: negatives that are likely relevant, found by judges whose scores are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from engines.distributed.testing import run_ranks
from evaluation.list_scorer import ListScorer
from launch.cli.compose import load
from recipes.negatives.relabel_run import relabel

NAMES = ["red", "green", "blue", "apple", "pear", "train", "rank", "list", "bird", "tree"]
PLANTED = {f"what is {name}" for name in NAMES[:4]}  # one of their negatives says what the positive says


def rows() -> list[dict[str, Any]]:
    found = []
    for number, name in enumerate(NAMES):
        query = f"what is {name}"
        negatives = [f"about {NAMES[(number + place) % 10]} and {place}" for place in (1, 2, 3)]
        if query in PLANTED:
            negatives[1] = f"{name} it is, in other words"
        found.append({"query": query, "documents": [f"{name} it is", *negatives], "labels": [2, 0, 0, 0]})
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


@pytest.fixture
def settings(tiny_reranker_dir: Path, file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def make(output: str, *more: str, kind: str = "file", data: Path = file) -> list[str]:
        own = [f"data={kind}", f"data.path={data}", f"data.cache_dir={tmp_path / 'cache'}", "model.max_length=32"]
        own += ["data.dev_fraction=0.2"] + (["data.test_fraction=0.2"] if kind == "file" else [])
        return [*own, f"model.name_or_path={tiny_reranker_dir}", f"output={tmp_path / output}", *more]

    return make


def run(arguments: list[str]) -> float:
    return relabel(load(arguments, "relabel"))


@pytest.fixture
def overlap(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A judge that asks whether a document begins with the query's last word: 1 or 0, times a scale, plus a shift."""
    judge = SimpleNamespace(scales=[(1.0, 0.0)], calls=0)

    def score(self: ListScorer, *_: object) -> dict[str, dict[str, float]]:
        scale, shift = judge.scales[min(judge.calls, len(judge.scales) - 1)]
        judge.calls += 1
        found = {}
        for query, documents in self.lists.items():
            name = self.queries[query].split()[-1]
            found[query] = {d: scale * self.documents[d].startswith(name) + shift for d in documents}
        return found

    monkeypatch.setattr(ListScorer, "score", score)
    return judge


def test_a_report_names_the_planted_negatives_of_training_queries(settings, tmp_path, overlap, capsys, file):
    data = FileConfig(path=str(file), dev_fraction=0.2, test_fraction=0.2).build()
    training = set(data.split("train").queries.values())
    overlap.scales = [(7.0, -30.0)]  # neither scale nor shift matters
    share = run(settings("report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["negatives_suspected"]
    assert {each["query"] for each in found} == PLANTED & training
    assert all(each["document"].endswith("in other words") for each in found)
    assert all(each["closeness"] == [1.0] for each in found)
    assert report["suspected"] == len(found)
    assert report["negatives"] == 3 * len(training)
    assert share == pytest.approx(len(found) / report["negatives"])
    out = capsys.readouterr().out
    assert f"{len(found)} of {3 * len(training)} negatives" in out
    assert found[0]["positives"][0] in out


@pytest.mark.parametrize("action", ["drop", "relabel"])
def test_lists_of_a_file_are_written_anew(settings, tmp_path, overlap, file, action):
    options = {"dev_fraction": 0.2, "test_fraction": 0.2}
    before = FileConfig(path=str(file), **options).build()
    run(settings("clean.jsonl", f"action={action}"))
    after = FileConfig(path=str(tmp_path / "clean.jsonl"), **options).build()
    for name, split in before.splits.items():
        assert set(split.queries.values()) == set(after.splits[name].queries.values()), "the same splits"
        for query, labels in split.judgements.items():
            texts = {before.documents[document]: label for document, label in labels.items()}
            if name == "train" and split.queries[query] in PLANTED:
                planted = next(text for text in texts if text.endswith("in other words"))
                texts[planted] = 2
                if action == "drop":
                    del texts[planted]
            found = {after.documents[d]: x for d, x in after.splits[name].judgements[query].items()}
            assert found == texts
    assert (tmp_path / "clean.jsonl.report.json").is_file()


def test_judgements_by_id(settings, tmp_path, overlap, write_planted):
    folder, planted = write_planted
    arguments = {"kind": "beir", "data": folder}
    run(settings("never.tsv", "action=drop", **arguments))
    run(settings("train.tsv", "action=relabel", **arguments))
    pairs = [line.split("\t") for line in (tmp_path / "never.tsv").read_text().splitlines()]
    assert pairs[0] == ["query-id", "corpus-id", "score"]
    assert {(query, document) for query, document, _ in pairs[1:]} == planted
    never = BEIRConfig(path=str(folder), exclude=str(tmp_path / "never.tsv"), cache_dir=str(tmp_path)).build()
    assert {(q, d) for q, found in never.excluded.items() for d in found} == planted
    (folder / "qrels" / "train.tsv").write_text((tmp_path / "train.tsv").read_text())
    more = BEIRConfig(path=str(folder), cache_dir=str(tmp_path), dev_fraction=0).build().split("train").qrels
    assert {(q, d) for q, found in more.items() for d, grade in found.items() if grade and d.startswith("p")} == planted
    assert set(more) == {f"q{i}" for i in range(8)}, "also those that are held out as dev"


@pytest.mark.parametrize("kind", ["beir", "file"])
def test_a_query_without_a_positive_is_written_as_it_was(settings, tmp_path, overlap, write_planted, file, kind):
    if kind == "file":
        row = {"query": "what is nothing", "documents": ["nothing here", "nothing there"], "labels": [0, 0]}
        file.write_text(file.read_text() + json.dumps(row) + "\n")
        run(settings("out.jsonl", "action=relabel"))
        assert row in [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        return
    train = write_planted[0] / "qrels" / "train.tsv"
    train.write_text(train.read_text().replace("q7\td7\t1", "q7\td7\t0"))
    run(settings("out.tsv", "action=relabel", kind="beir", data=write_planted[0]))
    assert "q7\td7\t0" in (tmp_path / "out.tsv").read_text().splitlines()


def test_a_split_with_a_file_of_its_own_is_not_mixed_with_training(settings, tmp_path, overlap, file):
    (tmp_path / "test.jsonl").write_text(file.read_text().replace("what is", "and what is"))
    run(settings("clean.jsonl", "action=drop", f"data.test_path={tmp_path / 'test.jsonl'}", "data.test_fraction=0"))
    found = [json.loads(line)["query"] for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert sorted(found) == sorted(row["query"] for row in rows())


@pytest.fixture
def write_planted(tmp_path: Path) -> tuple[Path, set[tuple[str, str]]]:
    """A folder in which d0 ... d9 are the positives of q0 ... q9, and p0 ... p3 say what d0 ... d3 say; the planted
    pairs of training queries."""
    folder = tmp_path / "planted"
    (folder / "qrels").mkdir(parents=True)
    texts = {f"d{i}": f"{name} it is" for i, name in enumerate(NAMES)}
    texts |= {f"p{i}": f"{name} it is, in other words" for i, name in enumerate(NAMES[:4])}
    texts |= {f"n{i}": f"about {NAMES[i]} and {NAMES[(i + 1) % 10]}" for i in range(10)}
    queries = {f"q{i}": f"what is {name}" for i, name in enumerate(NAMES)}
    for file, found in (("corpus", texts), ("queries", queries)):
        lines = (json.dumps({"_id": key, "text": text}) + "\n" for key, text in found.items())
        (folder / f"{file}.jsonl").write_text("".join(lines))
    rows = {"train": range(8), "test": range(8, 10)}
    for split, numbers in rows.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in numbers)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    train = BEIRConfig(path=str(folder), cache_dir=str(tmp_path / "cache"), dev_fraction=0.2).build().split("train")
    return folder, {(f"q{i}", f"p{i}") for i in range(4) if f"q{i}" in train.queries}


def test_judges_must_agree(settings, tmp_path, overlap, tiny_models):
    (tmp_path / "second").mkdir()
    second = tiny_models.write_tiny_bert(tmp_path / "second", reranker=True, seed=5)
    overlap.scales = [(1.0, 0.0), (0.0, 1.0)]  # the second sees no difference
    run(settings("alone.json"))
    overlap.calls = 0
    run(settings("both.json", f"judges=[{second}]"))
    alone, both = (json.loads((tmp_path / name).read_text()) for name in ("alone.json", "both.json"))
    assert alone["suspected"] > 0
    assert both["suspected"] == 0
    overlap.calls = 0
    run(settings("half.json", f"judges=[{second}]", "agreement=0.5"))
    half = json.loads((tmp_path / "half.json").read_text())
    assert half["suspected"] == alone["suspected"]
    assert half["negatives_suspected"][0]["closeness"] == [1.0, None]
    overlap.scales, overlap.calls = [(0.0, 1.0)], 0
    run(settings("blind.json"))
    assert json.loads((tmp_path / "blind.json").read_text())["lists_not_judged"] == alone["lists"]


def on_ranks(arguments: list[str]) -> None:
    relabel(load(arguments, "relabel"))


def test_two_ranks_find_the_same(settings, tmp_path):
    for ranks in (1, 2):
        run_ranks(on_ranks, ranks, settings(f"{ranks}.jsonl", "action=drop", "threshold=0.3"))
    for end in ("", ".report.json"):
        assert (tmp_path / f"1.jsonl{end}").read_bytes() == (tmp_path / f"2.jsonl{end}").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["action=remove"], r"^action=remove must be one of report, drop, relabel"),
        (["action=drop"], r"choose a name that ends in .jsonl"),
        (["threshold=0"], r"^threshold=0.0 must be above 0"),
        (["agreement=1.5"], r"^agreement=1.5 must lie above 0"),
    ],
)
def test_mistakes(settings, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(settings("x.json", *arguments))


def test_data_without_a_place_for_judgements(tmp_path):
    with pytest.raises(ValueError, match=r"^action=drop writes judgements for data=beir: choose action=report"):
        run(["data=docstrings", "action=drop", f"output={tmp_path / 'x.tsv'}"])


def test_lists_without_negatives_and_an_output_that_is_there(settings, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"query": f"q {n}", "positive": f"p {n}"}) + "\n" for n in NAMES))
    with pytest.raises(ValueError, match=r"no training query has both a positive and a negative to judge: mine"):
        run(settings("x.json", data=pairs))
    (tmp_path / "y.json").write_text("{}")
    with pytest.raises(ValueError, match=r"y.json is there: overwrite=true replaces it"):
        run(settings("y.json"))
