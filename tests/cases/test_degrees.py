"""Degrees of similarity and ratings are no relevance: what is read, refused, trained and measured."""

from __future__ import annotations

import csv
import json
import logging
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scipy.stats import spearmanr

from data.collection import Collection
from data.degrees import degrees_of
from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.sampling.mixture import MixtureConfig
from data.sampling.training_lists import TrainingLists
from engines.distributed.testing import run_ranks
from launch.cli.catalog import suggest_fitting_losses
from launch.cli.compose import load
from launch.inspect_data import inspect_file
from models.bi_encoder import BiEncoderConfig
from recipes.evaluation_run import evaluate
from recipes.preparation import prepare
from recipes.training_run import train

WORDS = ("kettle", "lighthouse", "glacier", "violin", "harbour", "engine", "garden", "bridge", "lantern", "river")
STS = (0.4, 2.6, 4.8)
RATINGS = (1, 2, 3, 4, 5)
Row = tuple[str, str, float]


def pairs(levels: Sequence[float], count: int = 40) -> list[Row]:
    """One document to a query; the higher its level, the more words it shares with the query."""
    rng, found = random.Random(1), []
    for number in range(count):
        words = rng.sample(WORDS, 4)
        position = number % len(levels)
        shared = round(4 * position / (len(levels) - 1))
        others = rng.sample([word for word in WORDS if word not in words], 4 - shared)
        found.append(
            (f"{' '.join(words)} {number}", f"{' '.join([*words[:shared], *others])} {number}", levels[position])
        )
    return found


def write(path: Path, rows: Sequence[Row], label: str = "score") -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("sentence1", "sentence2", label), *rows])
    return str(path)


def write_lists(path: Path, levels: Sequence[float], count: int = 30) -> str:
    """Lists of a document of each level."""
    rows = [
        {"query": f"{WORDS[i % 10]} {i}", "docs": [f"{WORDS[j]} {i}" for j in range(len(levels))], "labels": levels}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: str, **options: Any) -> Collection:
    return FileConfig(path=path, cache_dir=str(Path(path).parent), **options).build()


@pytest.fixture
def settings(tmp_path: Path, tiny_bert_dir: Path) -> Callable[..., list[str]]:
    """`settings(path, *more)`: a short run on that file. A cross-encoder by default."""

    def settings(path: str, *more: str) -> list[str]:
        model = [f"model.name_or_path={tiny_bert_dir}", "model.max_length=32"]
        trainer = ["trainer.max_steps=4", "trainer.eval_every=2", "trainer.save_every=2", "trainer.workers=0"]
        places = [f"output_dir={tmp_path / 'outputs'}", f"data.cache_dir={tmp_path}", "run_name=run", "logger=none"]
        return ["data=file", f"data.path={path}", *model, *trainer, "trainer.batch_size=4", *places, *more]

    return settings


def run(overrides: list[str]) -> float | None:
    with suggest_fitting_losses():
        return train(load(overrides))


def result(tmp_path: Path, name: str = "run") -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """summary.json, config.yaml and the lines of metrics.jsonl."""
    folder = tmp_path / "outputs" / name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return (
        json.loads((folder / "summary.json").read_text()),
        yaml.safe_load((folder / "config.yaml").read_text()),
        lines,
    )


COSENT = ["+exp=embedder_infonce", "loss=cosent"]
BCE = ["+exp=reranker_bce", "loss.pos_weight=null"]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"q": {"a": 0.5}, "r": {"a": 1.0}}, "the label 0.5 is no integer"),
        ({"q": {"a": 4.0, "b": 3.5}}, "the label 3.5 is no integer"),
        ({"q": {"a": 4.0}, "r": {"a": 1.0}}, "labels go from 1 to 4 and none is 0"),
        ({"q": {"a": 4.0, "b": 1.0}}, "labels go from 1 to 4 and none is 0"),
        ({"q": {"a": 5.0}, "r": {"a": 0.0}, "s": {"a": 3.0}}, "labels go from 0 to 5 with one document to a query"),
        ({"q": {"a": 2.0, "b": 1.0, "c": 0.0}}, ""),  # a graded list
        ({"q": {"a": 3.0, "b": 0.0}, "r": {"a": 1.0}}, ""),
        ({"q": {"a": 1.0}, "r": {"a": 0.0}}, ""),  # binary pairs
        ({"q": {"a": 1.0}, "r": {"b": 1.0}}, ""),  # positive pairs
        ({"q": {"a": 5.0}}, ""),
        ({}, ""),
    ],
)
def test_which_labels_are_degrees(labels: dict[str, dict[str, float]], reason: str):
    assert degrees_of(labels) == reason


def test_degrees_of_pairs_stay_exact_and_all_can_be_held_out(tmp_path: Path):
    rows = [(f"a {i}", f"b {i}", level) for i, level in enumerate([0.0, 1 / 3, 2.333, 5.0] * 10)]
    data = read(write(tmp_path / "rows.csv", rows), test_fraction=0.4)
    test = data.split("test")
    labels = {label for judged in test.labels.values() for label in judged.values()}
    assert 0.0 in labels, "a pair of label 0 is evaluated too"
    assert 2.333 in labels
    assert (len(test.queries), len(data.splits["dev"].queries)) == (16, 4)
    assert data.available == {"levels"}


def test_equal_queries_and_mirrored_pairs_stay_in_one_split(tmp_path: Path):
    rows = [(f"left {i // 2}", f"right {i}", [0.4, 4.8][i % 2]) for i in range(40)]
    rows += [(f"right {i}", f"left {i // 2}", [0.4, 4.8][i % 2]) for i in range(40)]
    data = read(write(tmp_path / "rows.csv", rows), test_fraction=0.3, dev_fraction=0.2)
    members = {
        name: {
            frozenset((split.queries[query], data.documents[document]))
            for query, judged in split.judgements.items()
            for document in judged
        }
        for name, split in data.splits.items()
    }
    assert sum(map(len, members.values())) == 40
    assert all(len(split.judgements) for split in data.splits.values())


def test_a_query_with_several_degrees_keeps_and_trains_them_all(tmp_path: Path):
    """Some queries of STS come several times; of one list size, each of their pairs is drawn."""
    rows = [*pairs(STS), ("twice", "first", 4.8), ("twice", "second", 0.4)]
    data = read(write(tmp_path / "rows.csv", rows), test_fraction=0.0, dev_fraction=0.0)
    assert data.split("train").degrees

    class Tokenizer:
        def encode_list(self, query: str, documents: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1] for _ in documents]}

    lists = TrainingLists(data, Tokenizer(), list_size=1, seed=0, options=data.lists)
    index = [data.splits["train"].queries[query] for query in lists.query_ids].index("twice")
    drawn = {round(float(lists[epoch, index].labels[0]), 3) for epoch in range(12)}
    assert drawn == {4.8, 0.4}


def test_a_file_of_degrees_for_evaluation_leaves_training_as_it_is(tmp_path: Path):
    train_file = tmp_path / "triplets.jsonl"
    rows = [{"query": f"q {i}", "positive": f"x {i}", "negative": f"y {i}"} for i in range(20)]
    train_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read(str(train_file), test_path=write(tmp_path / "sts.csv", pairs(STS)))
    assert data.splits["test"].degrees
    assert not data.splits["train"].degrees
    assert not data.splits["dev"].degrees
    assert "positive" in data.available


def test_binary_pairs_hold_out_pairs_that_are_not_relevant_in_proportion(tmp_path: Path):
    path = write(tmp_path / "quora.csv", [(f"a {i}", f"b {i}", float(i % 4 == 0)) for i in range(80)], "label")
    split = read(path, test_fraction=0.2).splits["test"]
    labels = [label for judged in split.judgements.values() for label in judged.values()]
    assert (labels.count(1), labels.count(0)) == (4, 12)
    assert len(split.qrels) == 4, "a ranking is measured for the others"
    assert not split.degrees


def test_relevant_from_keeps_the_labels_from_there_on(tmp_path: Path):
    path = write(tmp_path / "rows.csv", pairs(RATINGS), "label")
    data = read(path, relevant_from=4, test_fraction=0.4)
    train, test = data.split("train"), data.split("test")
    assert {label for judged in train.labels.values() for label in judged.values()} == {0, 4, 5}
    assert {grade for judged in test.qrels.values() for grade in judged.values()} == {4, 5}
    assert not train.degrees
    assert {"positive", "labels"} <= data.available
    for options, message in (
        ({"relevant_from": 6}, "data.relevant_from=6: no label is that high in"),
        ({"relevant_from": 0}, "data.relevant_from=0 must be above 0 and finite"),
    ):
        with pytest.raises(ValueError, match=message):
            read(path, **options)
    positive = tmp_path / "positive.csv"
    positive.write_text("query,positive\na,b\nc,d\n")
    with pytest.raises(ValueError, match=r"data.relevant_from=2: no row has a label in .*positive.csv"):
        read(str(positive), relevant_from=2)


def test_relevant_from_of_graded_qrels(tmp_path: Path, tiny_beir_dir: Path, caplog: pytest.LogCaptureFixture):
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).symlink_to(tiny_beir_dir / name)
    (tmp_path / "qrels").mkdir()
    for file in (tiny_beir_dir / "qrels").iterdir():
        header, *rows = file.read_text().splitlines()
        graded = [f"{row.rpartition(chr(9))[0]}\t{1 + i % 2}" for i, row in enumerate(rows)]
        (tmp_path / "qrels" / file.name).write_text("\n".join([header, *graded]) + "\n")
    options = {"path": str(tmp_path), "cache_dir": str(tmp_path)}
    whole = BEIRConfig(**options).build()
    with caplog.at_level(logging.WARNING):
        data = BEIRConfig(**options, relevant_from=2).build()
    assert {grade for judged in data.splits["test"].qrels.values() for grade in judged.values()} <= {0, 2}
    assert all(any(judged.values()) for judged in data.splits["test"].qrels.values())
    assert ("queries without a grade of 2 are left out" in caplog.text) == (
        len(data.splits["test"].qrels) < len(whole.splits["test"].qrels)
    )
    with pytest.raises(ValueError, match=r"data.relevant_from=3 is above the highest grade, 2"):
        BEIRConfig(**options, relevant_from=3).build()


REMEDIES = r"set data.relevant_from=X .*loss.soft_labels=true"


@pytest.mark.parametrize("loss", ["bce", "kto", "token_policy"])
@pytest.mark.parametrize("levels", [STS, RATINGS, (0, 1, 2, 3, 4, 5)])
def test_losses_that_read_relevance_are_refused_before_training(
    levels: Sequence[float], loss: str, tmp_path: Path, settings: Callable[..., list[str]]
):
    chosen = ["loss=token_policy", "trainer=grpo"] if loss == "token_policy" else [f"loss={loss}", "trainer=ranking"]
    with pytest.raises(ValueError, match=f"does not fit data rows.csv, .* lack labels .*{REMEDIES}"):
        run(settings(write(tmp_path / "rows.csv", pairs(levels)), *chosen))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("levels", [RATINGS, (0.9, 0.4, 0.1)])
def test_lists_of_degrees_are_refused_too(levels: Sequence[float], tmp_path: Path, settings: Callable[..., list[str]]):
    path = write_lists(tmp_path / "lists.jsonl", levels)
    with pytest.raises(ValueError, match=r"nDCG would take every label above 0 for relevant: choose eval=similarity"):
        run(settings(path, "+exp=reranker_listwise"))
    with pytest.raises(ValueError, match=REMEDIES):
        run(settings(path, *BCE, "eval=similarity"))
    with pytest.raises(ValueError, match=REMEDIES):
        run(settings(path, "+exp=embedder_infonce", "eval=similarity"))
    data = read(path)
    assert {"comparison", "levels", "several"} <= data.available, "losses of the order of labels fit"
    if max(levels) <= 1:
        run(settings(path, "+exp=reranker_bce", "loss=bce_soft"))
        assert result(tmp_path)[0]["metric"] == "nDCG@10"


@pytest.mark.parametrize(
    "chosen",
    [
        ("+exp=reranker_listwise", "loss=approx_mrr"),
        ("+exp=embedder_infonce", "loss=triplet"),
        ("+exp=embedder_infonce", "loss=triplet", "trainer.list_size=1"),
        ("+exp=embedder_infonce", "loss.in_batch=none", "loss.directions=[query_to_doc]"),
        ("loss=subset_grpo", "trainer=grpo"),
        ("loss=selection_grpo", "trainer=grpo"),
        *(("+exp=reranker_grpo", f"loss.reward._target_=losses.rewards.{name}") for name in ("MRR", "MAP", "Recall")),
        ("+exp=reranker_grpo", "loss.reward=[{_target_: losses.rewards.NDCG}, {_target_: losses.rewards.MRR}]"),
    ],
    ids=" ".join,
)
def test_what_asks_for_labels_above_0_is_refused_for_lists_of_degrees(
    chosen: Sequence[str], tmp_path: Path, settings: Callable[..., list[str]]
):
    """Every document would be relevant, so the loss and its gradient would be 0 in every step."""
    for levels in ((0.9, 0.4, 0.1), RATINGS):
        file = write_lists(tmp_path / f"{len(levels)}.jsonl", levels)
        with pytest.raises(ValueError, match=f"lack relevance .*{REMEDIES}"):
            prepare(load(settings(file, *chosen, "eval=similarity")))
        if "trainer.list_size=1" not in chosen:
            remedy = ["eval=reranking", f"data.relevant_from={levels[1]}"]
            assert prepare(load(settings(file, *chosen, *remedy))).training


def test_lists_that_rank_relevant_documents_alone_do_not_teach_what_is_relevant(tmp_path: Path):
    """Beside graded lists with a 0; two relevant documents of different grades are a comparison all the same."""
    rows = [("a", "x", 2), ("a", "y", 1), ("b", "z", 0), ("b", "w", 0)]
    data = read(write(tmp_path / "rows.csv", rows), test_fraction=0.0, dev_fraction=0.0)
    assert data.available == {"positive", "comparison", "labels", "levels", "several"}
    assert "relevance" in read(write(tmp_path / "more.csv", [*rows, ("a", "v", 0)])).available


def test_graded_lists_are_relevance_as_before(tmp_path: Path):
    data = read(write_lists(tmp_path / "lists.jsonl", (3, 2, 1, 0)))
    assert not any(split.degrees for split in data.splits.values())
    assert {"positive", "labels"} <= data.available


def test_soft_labels_are_refused_outside_0_to_1(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs(STS))
    with pytest.raises(ValueError, match=r"lack unit_labels \(labels .* from 0 to 1: divide larger ones"):
        run(settings(path, *BCE, "loss.soft_labels=true"))


def test_documents_without_a_degree_are_not_added(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs((0.1, 0.5, 0.9)))
    for option in ("data/candidates=bm25", "data.lists.random_fraction=0.5"):
        with pytest.raises(ValueError, match=r"documents that data.candidates or data.lists.random_fraction add"):
            run(settings(path, "+exp=reranker_bce", "loss=bce_soft", option))


def test_pairs_of_degrees_are_correlated_and_the_run_says_so(
    tmp_path: Path, settings: Callable[..., list[str]], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
):
    """The experiment's eval=retrieval gives way; config.yaml names what was used, and a resumed run compares equal."""
    path = write(tmp_path / "rows.csv", pairs(STS))
    with caplog.at_level(logging.WARNING):
        best = run(settings(path, *COSENT, "trainer.learning_rate=0.01"))
    assert caplog.text.count("eval=similarity is used instead of a ranking") == 1
    summary, config, lines = result(tmp_path)
    assert config["eval"]["_target_"] == "evaluation.similarity_evaluator.SimilarityConfig"
    assert config["eval_of_degrees"] is None
    dev = [line["Spearman"] for line in lines if line["split"] == "dev"]
    assert summary["best_dev"] == max(dev) == best
    assert [line["name"] for line in lines if line["split"] == "test"] == ["before", "after"]
    keys = ("first_stage", "fused", "fusion_weight", "recall_ceiling")
    assert [summary[key] for key in keys] == [None] * 4
    assert (summary["ceiling"], summary["tests"], summary["test_pairs"]) == ({}, {}, 4)
    assert set(summary["metrics"]) == {"before", "after"}
    folder = tmp_path / "outputs" / "run"
    assert sorted(file.name for file in (folder / "runs").iterdir()) == ["after.run", "before.json", "before.run"]
    card, report = (folder / "model" / "README.md").read_text(), (folder / "report.html").read_text()
    assert "On 4 test pairs:" in card
    assert "<h2>Test pairs</h2>" in report
    printed = capsys.readouterr().out
    for text in (card, re.sub(r"config.*", "", report.split("<h2>Settings")[0]), printed):
        assert "Spearman" in text
        assert "first stage" not in text
        assert "fused" not in text
    run(settings(path, *COSENT, "trainer.learning_rate=0.01"))
    assert "is finished (4 steps)" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_with_the_same_values(
    tmp_path: Path, settings: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    path = write(tmp_path / "rows.csv", pairs((0.1, 0.5, 0.9)))
    overrides = settings(path, "+exp=reranker_bce", "loss=bce_soft", "trainer.learning_rate=0.01")
    run([*overrides, "run_name=whole"])

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recipes.train_model.load_best", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(overrides)
    run(overrides)
    whole, resumed = result(tmp_path, "whole")[0], result(tmp_path)[0]
    assert all(whole[key] == resumed[key] for key in ("before", "after", "best_dev", "best_step", "metrics"))


def test_two_ranks_train_and_measure_as_one(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs(STS))
    found = {}
    for ranks in (1, 2):
        overrides = settings(path, *COSENT, "trainer.optimizer=sgd", f"run_name=ranks{ranks}")
        run_ranks(run, ranks, overrides)
        found[ranks] = result(tmp_path, f"ranks{ranks}")[0]
    for key in ("before", "after", "best_dev"):
        assert found[2][key] == pytest.approx(found[1][key], abs=1e-4)


def test_a_run_with_stages(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs((0.1, 0.5, 0.9)))
    stages = ["+exp=reranker_three_stage", "stages=[contrastive,preference]", "loss@stage.contrastive.loss=bce_soft"]
    stages += ["loss@stage.preference.loss=bce_soft", "stage.preference.trainer.reference=precomputed"]
    run(settings(path, *stages, "trainer.learning_rate=0.001"))
    summary, config, _ = result(tmp_path)
    assert config["eval"]["metric"] == summary["metric"] == "Spearman"
    assert [stage["metric"] for stage in summary["stages"]][-1] == summary["after"]
    assert not (tmp_path / "outputs" / "run" / "queries.json").exists()


def test_a_chosen_ranking_of_degrees_is_refused(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs(STS))
    for chosen in (["eval=retrieval"], ["eval=reranking"], ["eval.metric=MRR@10"]):
        with pytest.raises(
            ValueError, match=r"rows.csv: the label 4.8 is no integer, so .*: choose eval=similarity, or"
        ):
            run(settings(path, *COSENT, *chosen))
    assert not (tmp_path / "outputs").exists()


def test_other_options_of_the_evaluation_are_kept(tmp_path: Path, settings: Callable[..., list[str]]):
    path = write(tmp_path / "rows.csv", pairs(STS))
    loaded = load(settings(path, *COSENT, "eval.max_queries=7", "eval.depth=200", "eval_of_degrees.metric=Pearson"))
    assert (loaded.eval_of_degrees.max_queries, loaded.eval_of_degrees.metric) == (7, "Pearson")
    assert load(settings(path, *COSENT, "eval=similarity")).eval_of_degrees is None


def test_evaluate_measures_pairs_of_degrees(tmp_path: Path, tiny_bert_dir: Path):
    path = write(tmp_path / "rows.csv", pairs(STS))
    held_out = [f"data.test_path={write(tmp_path / 'test.csv', [(f'{a} z', b, x) for a, b, x in pairs(STS, 50)])}"]
    common = ["data=file", f"data.path={path}", *held_out, f"data.cache_dir={tmp_path}"]
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "model.max_length=32"]
    value = evaluate(load([*common, *model, f"output={tmp_path / 'out.json'}"], "evaluate"))
    summary = json.loads((tmp_path / "out.json").read_text())
    assert (summary["metric"], summary["model"], summary["test_pairs"]) == ("Spearman", value, 50)
    assert (summary["tests"], summary["fusion_weight"]) == ({}, None)
    data = read(path, test_path=str(tmp_path / "test.csv"))
    assert value == pytest.approx(by_hand(data, tiny_bert_dir), abs=1e-9)
    for more, message in (
        (["model=bm25"], "the label 4.8 is no integer, .* relevant: set data.relevant_from=X"),
        (["model=bm25", "eval=similarity"], "model=bm25 gives no scores of pairs.*: choose eval=retrieval"),
        ([*model, "eval=retrieval"], "choose eval=similarity, or set data.relevant_from=X"),
        ([*model, "eval=similarity", "fusion_weight=0.5"], "eval=similarity fuses with nothing, leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(load([*common, *more], "evaluate"))


def by_hand(data: Collection, folder: Path) -> float:
    """Spearman's correlation of the test pairs, from the model itself, text by text."""
    model = BiEncoderConfig(name_or_path=str(folder), max_length=32).build(0).eval()

    def embed(text: str, role: str) -> torch.Tensor:
        row = torch.tensor(model.tokenizer([text], role=role)["input_ids"])
        features = {"input_ids": row, "attention_mask": torch.ones_like(row), "token_type_ids": torch.zeros_like(row)}
        with torch.no_grad():
            return model(**features)["embedding"][0]

    test = data.split("test")
    scored = [
        (label, float(embed(test.queries[query], "query") @ embed(data.documents[document], "document")))
        for query, judged in test.labels.items()
        for document, label in judged.items()
    ]
    return float(spearmanr(*zip(*scored, strict=True)).statistic)


def test_binary_pairs_are_ranked_unless_the_correlation_is_chosen(
    tmp_path: Path, settings: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
):
    path = write(tmp_path / "quora.csv", pairs((0, 1)), "label")
    prepared = prepare(load(settings(path, *COSENT)))
    assert prepared.settings.eval.ranks
    assert "eval=similarity eval.metric=AP" in caplog.text
    run(settings(path, *COSENT, "eval=similarity", "eval.metric=AP"))
    summary = result(tmp_path)[0]
    assert summary["metric"] == "AP"
    assert set(summary["metrics"]["after"]) == {"AP", "Spearman", "Pearson"}
    assert summary["test_pairs"] == 4


def test_too_few_pairs_are_one_line_before_training(tmp_path: Path, settings: Callable[..., list[str]]):
    for count in (0, 1, 2):
        path = write(tmp_path / "rows.csv", pairs(STS, count)) if count else write(tmp_path / "rows.csv", [])
        with pytest.raises(
            ValueError,
            match=r"has no rows|has no test split|of different labels|all labels are",
        ):
            prepare(load(settings(path, *COSENT)))
    path = write(tmp_path / "rows.csv", [(f"a {i}", f"b {i}", 0.5) for i in range(30)])
    with pytest.raises(ValueError, match=r"all labels are 0.5, from which nothing is learned"):
        run(settings(path, *COSENT))
    assert not (tmp_path / "outputs").exists()


def test_graded_lists_with_many_empty_ones_or_single_rows_are_relevance():
    graded = {f"q{i}": {"a": 3.0, "b": 1.0, "c": 0.0} for i in range(10)}
    assert degrees_of(graded | {f"r{i}": {"a": 0.0, "b": 0.0, "c": 0.0} for i in range(12)}) == ""
    assert degrees_of(graded | {f"r{i}": {"a": 2.0, "b": 2.0} for i in range(12)}) == ""
    assert degrees_of(graded | {f"r{i}": {"a": 1.0} for i in range(14)}) == ""


@pytest.mark.parametrize("levels", [(0, 4), (4,)])
def test_a_held_out_file_shares_the_scale_of_the_training_file(levels: tuple[int, ...], tmp_path: Path):
    path = write(tmp_path / "rows.csv", pairs(RATINGS))
    held_out = write(
        tmp_path / "test.csv", [(f"{a} z", b, levels[i % len(levels)]) for i, (a, b, _) in enumerate(pairs(STS))]
    )
    data = read(path, test_path=held_out)
    assert data.split("test").degrees == "labels go from 1 to 5 and none is 0 in data.path"
    binary = write(tmp_path / "binary.csv", [(f"{a} z", b, x) for a, b, x in pairs((0, 1))])
    assert read(path, test_path=binary).split("test").degrees == ""


def test_no_more_degrees_are_held_out_than_the_limit(tmp_path: Path):
    rows = [(f"query {i}", f"document {i}", 5 if i % 20 == 0 else 1) for i in range(400)]
    data = read(write(tmp_path / "rows.csv", rows), max_held_out=5)
    for split in ("dev", "test"):
        assert len(data.split(split).queries) == 5
        assert len({label for judged in data.split(split).labels.values() for label in judged.values()}) == 2


def test_splits_of_two_kinds_are_refused_before_training(tmp_path: Path, settings: Callable[..., list[str]]):
    rows = [(query, document) for query, document, _ in pairs(STS)]
    (tmp_path / "rows.csv").write_text("".join(f"{a},{b}\n" for a, b in [("anchor", "positive"), *rows]))
    dev = write(tmp_path / "dev.csv", [(f"{a} z", b, x) for a, b, x in pairs((0.1, 0.5, 0.9), 12)])
    with pytest.raises(
        ValueError, match=r"labels of dev are degrees .*those of test are not .*: give data.test_path with"
    ):
        prepare(load(settings(str(tmp_path / "rows.csv"), "+exp=embedder_infonce", f"data.dev_path={dev}")))
    path = write(tmp_path / "sts.csv", pairs(STS))
    with pytest.raises(ValueError, match=r"has no test split"):
        prepare(load(settings(path, *COSENT, "data.test_fraction=0")))
    with pytest.raises(ValueError, match=r"eval.metric=AP needs labels of relevance"):
        prepare(load(settings(path, *COSENT, "eval=similarity", "eval.metric=AP")))
    assert not (tmp_path / "outputs").exists()


def test_options_without_effect_are_named(
    tmp_path: Path, settings: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
):
    prepare(load(settings(write(tmp_path / "rows.csv", pairs(STS)), *COSENT, "eval.dims=[8]")))
    assert "instead of a ranking, without eval.dims; " in caplog.text


def test_no_fusion_weight_is_fitted_by_degrees(tmp_path: Path, tiny_bert_dir: Path, caplog: pytest.LogCaptureFixture):
    rows = [(f"{a} {kind}", b) for kind in "yz" for a, b, _ in pairs(STS)]
    paths = [tmp_path / "train.csv", tmp_path / "test.csv"]
    for path, half in zip(paths, (rows[:40], rows[40:]), strict=True):
        path.write_text("".join(f"{a},{b}\n" for a, b in [("anchor", "positive"), *half]))
    dev = write(tmp_path / "dev.csv", [(f"{a} w", b, x) for a, b, x in pairs((0.1, 0.5, 0.9), 12)])
    places = [
        f"data.path={paths[0]}",
        f"data.test_path={paths[1]}",
        f"data.dev_path={dev}",
        f"data.cache_dir={tmp_path}",
    ]
    model = ["model=bi_encoder", f"model.name_or_path={tiny_bert_dir}", "model.max_length=32"]
    evaluate(load(["data=file", *places, *model, f"output={tmp_path / 'out.json'}"], "evaluate"))
    assert json.loads((tmp_path / "out.json").read_text())["fusion_weight"] is None
    assert "gives no fusion weight" in caplog.text


def test_a_mixture_is_measured_by_the_source_that_is_evaluated(tmp_path: Path, tiny_beir_dir: Path):
    sts = FileConfig(path=write(tmp_path / "rows.csv", pairs(STS)), cache_dir=str(tmp_path))
    beir = BEIRConfig(path=str(tiny_beir_dir), cache_dir=str(tmp_path))
    data = MixtureConfig(sources={"beir": beir, "sts": sts}, evaluate_on="sts").build()
    assert data.splits["test"].degrees
    assert "positive" not in data.available
    assert "levels" in data.available
    assert not MixtureConfig(sources={"beir": beir, "sts": sts}, evaluate_on="beir").build().splits["test"].degrees


def test_the_report_on_a_file_says_what_fits(tmp_path: Path):
    lines = inspect_file(write(tmp_path / "rows.csv", pairs((0.1, 0.5, 0.9))), [])
    assert any(line.startswith("degrees of similarity: the label 0.9 is no integer; eval=similarity") for line in lines)
    [fit] = [line for line in lines if line.startswith("losses that fit: ")]
    assert fit == "losses that fit: angle, bce_soft, cosent"
    assert not [
        line for line in inspect_file(write(tmp_path / "q.csv", pairs((0, 1)), "label"), []) if "degrees" in line
    ]


def test_reasoning_is_rewarded_by_relevance_only(tmp_path: Path, tiny_causal_dir: Path):
    pytest.importorskip("trl")
    from recipes.reasoning_run import reason

    path = write(tmp_path / "rows.csv", pairs(RATINGS))
    common = [f"model.name_or_path={tiny_causal_dir}", "data=file", f"data.path={path}", f"output_dir={tmp_path}"]
    with pytest.raises(ValueError, match=r"labels go from 1 to 5 and none is 0, .* relevant: set data.relevant_from=X"):
        reason(load([*common, "logger=none"], "reason"))
