"""Degrees of similarity and ratings are no relevance: what is read, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rated_pairs import BCE, RATINGS, STS, pairs, read, result, run, write, write_lists

from data.degrees import degrees_of
from data.formats.beir import BEIRConfig
from data.sampling.training_lists import TrainingLists
from launch.cli.compose import load
from recipes.preparation import prepare


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


REMEDIES = r"set data.relevant_from=X .*loss=bce_soft"


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
