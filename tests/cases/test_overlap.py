"""No query is trained on that is held out, whichever way training data meet the queries of an evaluation."""

import json
import logging
import random
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.collection import Collection
from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.overlap import held_out_queries, without_held_out
from data.sampling.mixture import Mixture, MixtureConfig
from launch.cli.compose import load
from recipes.cost_plan.estimate import Machine, make_plans
from recipes.preparation import prepare
from recipes.stages import Stage, training_data

SEEDS = range(6)


def query(number: int) -> str:
    return f"When is f(x) < C++ in case {number}"


def disguised(text: str, rng: random.Random) -> str:
    """The text in another case, width, amount of white space or Unicode form."""
    wide = "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text)
    return rng.choice(
        [text, text.upper(), text.lower(), wide, text.replace(" ", "  "), f" {text}\t", f"{wide.lower()}\n"]
    )


def numbers(texts: Iterable[str]) -> set[int]:
    """The numbers of these queries, read from the end of each: the tests compare them instead of texts."""
    return {int(re.findall(r"\d+", unicodedata.normalize("NFKC", text))[-1]) for text in texts}


def of(data: Collection | Mixture, *splits: str) -> set[int]:
    return numbers(text for name in splits if name in data.splits for text in data.splits[name].queries.values())


def write_beir(folder: Path, rng: random.Random, **splits: Iterable[int]) -> BEIRConfig:
    """A folder in which a query that two splits share has one id, or two and its text in two forms."""
    (folder / "qrels").mkdir(parents=True)
    queries: dict[str, str] = {}
    for split, members in splits.items():
        rows = ["query-id\tcorpus-id\tscore"]
        for number in members:
            identifier = rng.choice([f"q{number}", f"{split}-{number}"])
            queries.setdefault(identifier, disguised(query(number), rng))
            rows.append(f"{identifier}\td{number}\t1")
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    _write(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in queries.items()])
    _write(folder / "corpus.jsonl", [{"_id": f"d{number}", "text": f"The answer {number}."} for number in range(60)])
    return BEIRConfig(path=str(folder), cache_dir=str(folder / "cache"))


def write_file(path: Path, rng: random.Random, members: Iterable[int]) -> str:
    """Pairs, and some queries (each third one) with a document that is not relevant alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "query": disguised(query(number), rng),
            "document": f"The answer {number}, {copy}.",
            "label": int(number % 3 > 0),
        }
        for number in members
        for copy in range(rng.choice([1, 1, 2]))
    ]
    _write(path, rows)
    return str(path)


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def some(rng: random.Random, size: int) -> list[int]:
    return rng.sample(range(40), size)


@pytest.mark.parametrize("seed", SEEDS)
def test_splits_of_a_folder(seed: int, tmp_path: Path):
    rng = random.Random(seed)
    train, dev, test = some(rng, 20), some(rng, 8), some(rng, 8)
    data = write_beir(tmp_path / "three", rng, train=train, dev=dev, test=test).build()
    assert of(data, "test") == set(test)
    assert of(data, "dev") == set(dev) - set(test)
    assert of(data, "train") == set(train) - set(dev) - set(test)
    data = write_beir(tmp_path / "two", rng, train=train, test=test).build()
    assert of(data, "dev"), "drawn from queries that are not in test"
    assert of(data, "dev", "train") == set(train) - set(test)
    assert not of(data, "train") & of(data, "dev", "test")


@pytest.mark.parametrize("seed", SEEDS)
def test_files(seed: int, tmp_path: Path):
    rng = random.Random(seed)
    train, dev, test = some(rng, 20), some(rng, 8), some(rng, 8)
    paths = {name: write_file(tmp_path / f"{name}.jsonl", rng, m) for name, m in (("dev", dev), ("test", test))}
    options = {"path": write_file(tmp_path / "train.jsonl", rng, train), "cache_dir": str(tmp_path)}
    data = FileConfig(**options, dev_path=paths["dev"], test_path=paths["test"]).build()
    assert of(data, "test") == set(test), "pairs that are not relevant too: a correlation needs them"
    assert of(data, "dev") == set(dev) - set(test)
    assert numbers(data.splits["test"].queries[q] for q in data.splits["test"].qrels) == {n for n in test if n % 3}
    assert of(data, "train") == set(train) - set(dev) - set(test), "those that cannot be evaluated are held out too"
    for held_out in ({}, {"dev_path": paths["dev"]}, {"test_path": paths["test"]}):
        data = FileConfig(**options, **held_out, test_fraction=0.3, dev_fraction=0.3).build()
        assert of(data, "test")
        assert of(data, "dev")
        assert not of(data, "test") & of(data, "dev")
        given = {number for name in held_out for number in {"dev_path": dev, "test_path": test}[name]}
        assert of(data, "train") == set(train) - given - of(data, "dev", "test")


def mixture(folder: Path, rng: random.Random, **options: object) -> MixtureConfig:
    first = write_beir(folder / "first", rng, train=some(rng, 20), dev=some(rng, 6), test=some(rng, 6))
    second = write_beir(folder / "second", rng, train=some(rng, 25), test=some(rng, 5))
    file = FileConfig(path=write_file(folder / "pairs.jsonl", rng, some(rng, 25)), cache_dir=str(folder))
    return MixtureConfig(sources={"first": first, "second": second, "file": file}, **options)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("evaluated", ["first", "second", "file"])
def test_sources_of_a_mixture(seed: int, evaluated: str, tmp_path: Path):
    config = mixture(tmp_path, random.Random(seed), evaluate_on=evaluated)
    data = config.build()
    held_out = of(data, "dev", "test")
    assert held_out
    for name, options in config.sources.items():
        assert of(data.sources[name], "train") == of(options.build(), "train") - held_out
        assert data.shares[name] == len(data.sources[name].split("train").queries)
    assert data.evaluated is data.sources[evaluated]


def own_data(config: object) -> Stage:
    return Stage("late", 2, SimpleNamespace(data=config), has_own_data=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_data_of_a_stage(seed: int, tmp_path: Path):
    rng = random.Random(seed)
    run = write_beir(tmp_path / "run", rng, train=some(rng, 10), dev=some(rng, 8), test=some(rng, 8)).build()
    file = FileConfig(path=write_file(tmp_path / "file.jsonl", rng, some(rng, 30)), cache_dir=str(tmp_path))
    for config in (file, mixture(tmp_path / "mixed", rng)):
        found, before = training_data(own_data(config), run), config.build()
        for name, source in found.sources.items():
            assert of(source, "train") == of(before.sources[name], "train") - of(run, "dev", "test")
    assert found.shares == {name: len(source.split("train").queries) for name, source in found.sources.items()}


def _without_bm25(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that are not about the language or the candidates."""
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if not line.startswith("BM25: ")]


def test_data_without_overlap_is_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rng = random.Random(0)
    one = write_beir(tmp_path / "one", rng, train=range(10), dev=range(10, 12), test=range(12, 15))
    other = write_beir(tmp_path / "other", rng, train=range(20, 30), dev=range(30, 32), test=range(32, 35))
    with caplog.at_level(logging.WARNING):
        first, second = one.build(), other.build()
        same = without_held_out(second, held_out_queries(first), "here", "remedy")
        data = MixtureConfig(sources={"one": one, "other": other}).build()
    assert same is second
    assert [source.fingerprint for source in data.sources.values()] == [first.fingerprint, second.fingerprint]
    assert not _without_bm25(caplog)


def test_ids_of_different_sources_mean_nothing(tmp_path: Path):
    rng = random.Random(0)
    one = write_beir(tmp_path / "one", rng, train=range(10), dev=range(10, 12), test=range(12, 15))
    other = write_beir(tmp_path / "other", rng, train=range(20, 30))
    queries = Path(other.path) / "queries.jsonl"
    renamed = [json.loads(line) for line in queries.read_text().splitlines()]
    qrels = (Path(other.path) / "qrels" / "train.tsv").read_text()
    for number, row in enumerate(renamed):  # the ids of one's queries
        qrels = qrels.replace(f"{row['_id']}\t", f"test-{number}\t")
        row["_id"] = f"test-{number}"
    _write(queries, renamed)
    (Path(other.path) / "qrels" / "train.tsv").write_text(qrels)
    data = MixtureConfig(sources={"one": one, "other": other}).build()
    assert of(data.sources["other"], "train", "dev") == set(range(20, 30))


def test_one_line_says_what_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rng = random.Random(0)
    one = write_beir(tmp_path / "one", rng, train=range(10), dev=[7, 20, 30], test=[8, 9, 30])
    other = write_beir(tmp_path / "other", rng, train=[1, 2, 20, 8, 9], dev=[40])
    _write(tmp_path / "pairs.jsonl", [{"query": query(number), "answer": "The answer."} for number in (1, 2, 20)])
    file = FileConfig(path=str(tmp_path / "pairs.jsonl"), dev_fraction=0, test_fraction=0)
    with caplog.at_level(logging.WARNING):
        data = MixtureConfig(sources={"one": one, "other": other}).build()
        training_data(own_data(file), data)
    assert _without_bm25(caplog) == [
        "one: 1 of 3 dev queries is also in test: dropped",
        "one: 3 of 10 train queries are also in test (2) or dev (1): dropped",
        "data.sources.other: 3 of 5 train queries are also in test (2) or dev (1) of one: dropped",
        "stage.late.data (pairs.jsonl): 1 of 3 train queries is also in dev of one: dropped",
    ]


def test_nothing_left_to_train_on(tmp_path: Path):
    rng = random.Random(0)
    same = write_beir(tmp_path / "same", rng, train=[1, 2], test=[1, 2])
    assert of(same.build(), "test") == {1, 2}, "it can still be evaluated"
    with pytest.raises(ValueError, match=r"^data same: all 2 train queries are also in test, so none is left; give"):
        same.build().split("train")
    path = write_file(tmp_path / "train.jsonl", rng, [1, 2])
    file = FileConfig(path=path, test_path=path, dev_fraction=0, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"^data train.jsonl: all 2 train queries are also in test, so none is left"):
        file.build().split("train")
    same_path = [f"data.path={path}", f"data.test_path={path}", f"data.cache_dir={tmp_path}"]
    settings = load(["+exp=embedder_infonce", "data=file", *same_path])
    with pytest.raises(ValueError, match=r"^data train.jsonl: all 2 train queries"):  # and not of the loss
        prepare(settings)
    one = write_beir(tmp_path / "one", rng, train=range(10), dev=[20], test=[1, 2])
    late = FileConfig(path=path, test_fraction=0, dev_fraction=0, cache_dir=str(tmp_path))
    with pytest.raises(
        ValueError, match=r"^data.sources.late: all 2 train queries are .* of one, .*; leave data.sources"
    ):
        MixtureConfig(sources={"one": one, "late": late}).build()
    with pytest.raises(
        ValueError, match=r"^stage.late.data \(train.jsonl\): all 2 train .* of one, .*, or leave it out"
    ):
        training_data(own_data(late), one.build())


def test_a_plan_reads_the_data_that_are_trained_on(tiny_run: list[str], tiny_beir_dir: Path, tmp_path: Path):
    held_out = {line.split("\t")[0] for line in (tiny_beir_dir / "qrels" / "test.tsv").read_text().splitlines()[1:]}
    asked: Mapping[str, str] = {
        row["_id"]: row["text"] for row in map(json.loads, (tiny_beir_dir / "queries.jsonl").read_text().splitlines())
    }
    _write(
        tmp_path / "late.jsonl", [{"query": asked[name], "positive": f"p {name}", "negative": "n"} for name in held_out]
    )
    own = ["data@stage.preference.data=file", f"stage.preference.data.path={tmp_path / 'late.jsonl'}"]
    own += ["stage.preference.data.test_fraction=0", "stage.preference.data.dev_fraction=0"]
    settings = load(["+exp=reranker_three_stage", *tiny_run, *own])
    with pytest.raises(
        ValueError, match=r"^stage.preference.data \(late.jsonl\): all 6 train queries are also in test"
    ):
        make_plans(settings, Machine("cpu", 2**33, None), ranks=[1], reads_data=True)
