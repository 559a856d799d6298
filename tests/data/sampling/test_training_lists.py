import itertools
import logging
import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from data.batch import ListExample
from data.collate import pad
from data.collection import Collection, Split
from data.sampling.list_options import ListOptions
from data.sampling.training_lists import TrainingLists

NUM_DOCUMENTS, NUM_CANDIDATES = 2000, 50
RELEVANT = {"d3": 1, "d900": 2, "d901": 2, "d7": 0}  # d3, d7: candidates


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], **prompts: str) -> Mapping[str, list[list[int]]]:
        ids = [[len(query), *map(ord, prompts.get("document_prompt", "") + document)] for document in documents]
        if "query_prompt" in prompts:
            ids = [[*map(ord, prompts["query_prompt"]), *row] for row in ids]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}


def collection(candidates: int = NUM_CANDIDATES, documents: int = NUM_DOCUMENTS) -> Collection:
    texts = {f"d{i}": f"text {i}" for i in range(documents)}
    texts["d5"] = texts["d900"]  # a candidate that copies a relevant document
    ranked = [(f"d{i}", float(100 - i)) for i in range(candidates)]
    queries = {"q0": "zero", "q1": "one", "unjudged": "two"}
    qrels = {"q0": RELEVANT, "q1": {"d1": 1}, "unjudged": {"d1": 0}}
    split = Split(queries, qrels, dict.fromkeys(queries, ranked))
    return Collection("tiny", texts, {"train": split}, "hash", {"q0": {"d4", "d1000"}})


def lists(data: Collection | None = None, list_size: int = 8, seed: int = 0, **options: float | None) -> TrainingLists:
    return TrainingLists(
        data or collection(), Tokenizer(), list_size=list_size, seed=seed, options=ListOptions(**options)
    )


def is_candidate(name: str) -> bool:
    return int(name[1:]) < NUM_CANDIDATES


def test_a_list_mixes_positives_hard_and_random_documents():
    data = lists()
    for epoch in range(50):
        example = data[epoch, 0]
        names, labels = example.document_ids, example.labels
        assert len(names) == len(set(names)) == 8
        assert sum(label == 2 for label in labels) == 1  # the best grade is the one that is sampled
        assert sum(is_candidate(name) for name in names) in range(4, 7)  # 4 hard, the random ones may be others
        assert dict(zip(names, labels, strict=True)) == {name: max(RELEVANT.get(name, 0), 0) for name in names}


def test_grades_exclusions_and_copies():
    data = lists(random_fraction=0.5, list_size=60, hard_depth=50, positives=None)
    seen: Counter[str] = Counter()
    for epoch in range(100):
        seen.update(data.sample(epoch, "q0"))
    assert not seen.keys() & {"d4", "d1000", "d5"}  # excluded, excluded, a copy of a relevant document
    assert 0 < seen["d3"] < 100  # judged relevant and a candidate: drawn with its grade
    assert seen["d900"] + seen["d901"] == 100
    assert abs(seen["d900"] - 50) < 25


@pytest.mark.parametrize("copies", [1, 1900])
def test_a_copy_of_a_relevant_document_is_no_random_negative(copies: int):
    data = collection()
    for i in range(50, 50 + copies):
        data.documents[f"d{i}"] = data.documents["d900"]
    some = lists(data, random_fraction=1.0, list_size=60)
    for epoch in range(20):
        drawn = some.sample(epoch, "q0")
        assert len(set(drawn)) == 60
        assert [data.documents[name] for name in drawn].count("text 900") <= 1
    everything = lists(data, random_fraction=1.0, list_size=NUM_DOCUMENTS).sample(0, "q0")
    copied = {name for name, text in data.documents.items() if text == "text 900"} | {"d901", "d3"}
    assert len(everything) == NUM_DOCUMENTS - len(copied | {"d4", "d1000"}) + 1


def test_the_place_in_the_list_tells_nothing():
    data = lists()
    places = Counter(int(data[epoch, 1].labels.argmax()) for epoch in range(400))
    assert set(places) == set(range(8))
    assert max(places.values()) < 90


def same(first: ListExample, second: ListExample) -> bool:
    return (
        (first.query_id, first.document_ids) == (second.query_id, second.document_ids)
        and np.array_equal(first.labels, second.labels)
        and np.array_equal(first.teacher_scores, second.teacher_scores, equal_nan=True)
        and np.array_equal(first.sequences.features["input_ids"], second.sequences.features["input_ids"])
    )


def test_a_list_is_a_function_of_seed_epoch_and_query():
    first, again = lists(seed=1), pickle.loads(pickle.dumps(lists(seed=1)))
    assert same(first[3, 0], again[3, 0])
    assert same(first[3, 0], first[3, 0])
    draws = [first.sample(3, "q0"), first.sample(4, "q0"), first.sample(3, "q1"), lists(seed=2).sample(3, "q0")]
    assert len({tuple(draw) for draw in draws}) == 4


def test_tokens_and_teacher_scores_follow_the_documents():
    example = lists()[0, 0]
    batch = pad(example.sequences, range(8), {})
    texts = collection().documents
    for row, name in enumerate(example.document_ids):
        ids = batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist()
        assert ids == [len("zero"), *map(ord, texts[name])]
        score = example.teacher_scores[row]
        assert score == 100 - int(name[1:]) if is_candidate(name) else np.isnan(score)


def test_a_query_s_own_prompt_and_weight_come_before_the_data_set_s():
    data = collection()
    split = replace(data.splits["train"], prompts={"q1": "Q"}, weights={"q1": 0.5})
    data = replace(data, splits={"train": split}, query_prompt="A", document_prompt="D")
    rows = {index: lists(data)[0, index].sequences.features["input_ids"] for index in (0, 1)}
    assert [rows[0][:3].tolist(), rows[1][:3].tolist()] == [[ord("A"), 4, ord("D")], [ord("Q"), 3, ord("D")]]
    assert [lists(data)[0, index].weight for index in (0, 1)] == [1.0, 0.5]


def test_further_models_tokenise_the_same_list_without_the_prompts():
    data = replace(collection(), query_prompt="A")
    seen = TrainingLists(
        data, Tokenizer(), list_size=4, seed=0, options=ListOptions(), auxiliary={"guide": Tokenizer()}, source="name"
    )[0, 0]
    own, guide = pad(seen.sequences, range(4), {})["input_ids"], pad(seen.auxiliary["guide"], range(4), {})["input_ids"]
    assert own[:, 0].tolist() == [ord("A")] * 4
    assert own[:, 1:].tolist() == guide.tolist()
    assert (seen.source, lists()[0, 0].source) == ("name", "tiny")


def test_a_list_of_one_is_a_relevant_document():
    data = lists(list_size=1, positives=3)
    drawn = {tuple(data.sample(epoch, "q0")) for epoch in range(30)}
    assert drawn == {("d900",), ("d901",)}  # the best grade
    assert data[0, 0].labels.tolist() == [2]
    assert data[0, 0].sequences.lengths.tolist() == [1 + len("text 900")]


def test_lists_without_a_relevant_document_where_the_data_says_so():
    data = lists(replace(collection(), keep_queries_without_positives=True), random_fraction=0.0)
    assert data.query_ids == ["q0", "q1", "unjudged"]
    assert data[0, 2].labels.tolist() == [0] * 8


def test_labels_that_are_no_grades():
    data = collection()
    split = replace(data.splits["train"], labels={"q1": {"d1": 0.25, "d2": 0.75, "d3": 0}})
    example = lists(replace(data, splits={"train": split}), positives=None, random_fraction=0.0, list_size=50)[0, 0]
    labels = dict(zip(example.document_ids, example.labels.tolist(), strict=True))
    assert [labels["d1"], labels["d2"], labels["d3"]] == [0.25, 0.75, 0]


def test_several_positives():
    data = lists(positives=3)
    assert sorted(data[0, 0].labels[data[0, 0].labels > 0].tolist())[-3:] == [1, 2, 2]
    assert sum(lists(positives=100, list_size=3)[0, 0].labels > 0) == 2  # one place is left for a negative


def test_few_candidates():
    few = collection(candidates=2)
    assert len(lists(few)[0, 1].document_ids) == 8  # random documents stand in
    ragged = lists(few, random_fraction=0.0)
    assert sorted(ragged[0, 1].document_ids) == ["d0", "d1"]
    assert len(lists(collection(documents=1001), list_size=5000)[0, 1].document_ids) == 1001


def test_long_lists():
    example = lists(list_size=1000)[0, 0]
    assert len(example.document_ids) == len(set(example.document_ids)) == len(example.sequences) == 1000
    assert "d4" not in example.document_ids


def test_all_random_and_all_hard():
    assert sum(map(is_candidate, lists(random_fraction=1.0).sample(0, "q1"))) < 4
    assert all(map(is_candidate, lists(random_fraction=0.0).sample(0, "q1")))


def test_queries_without_a_relevant_document_are_skipped(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert lists().query_ids == ["q0", "q1"]
    assert "tiny: 1 train queries without a relevant document are skipped" in caplog.text
    split = Split({"q": "x"}, {"q": {"d1": 0}}, {"q": []})
    with pytest.raises(ValueError, match="data tiny: none of the 1 train queries has a relevant document"):
        lists(Collection("tiny", {"d1": "x"}, {"train": split}, "hash"))


def test_bad_options():
    with pytest.raises(ValueError, match=r"trainer.list_size=0 must be at least 1"):
        lists(list_size=0)
    with pytest.raises(ValueError, match=r"data.lists.random_fraction=1.5 must be in \[0, 1\]"):
        ListOptions(random_fraction=1.5)
    for options in ({"positives": 0}, {"hard_depth": 0}):
        with pytest.raises(ValueError, match=f"data.lists.{next(iter(options))}=0 .*must be at least 1"):
            ListOptions(**options)


def parts_of(names: list[str], order: list[str], parts: int) -> list[int]:
    """How many of the names lie in each of `parts` equal parts of `order`."""
    bounds = [part * len(order) // parts for part in range(parts + 1)]
    return [sum(name in order[low:high] for name in names) for low, high in itertools.pairwise(bounds)]


QUANTILES = {"sampling": "quantile", "random_fraction": 0.0, "hard_depth": 50}


def test_quantiles_give_one_candidate_of_every_equal_part():
    data = lists(list_size=13, **QUANTILES)
    order = [f"d{i}" for i in range(50) if f"d{i}" not in {"d3", "d4", "d5"}]  # relevant, excluded, a copy
    drawn = [[name for name in data.sample(epoch, "q0") if name in order] for epoch in range(30)]
    assert all(parts_of(names, order, 12) == [1] * 12 for names in drawn)
    assert len({tuple(sorted(names)) for names in drawn}) == 30, "another draw in every epoch"
    assert {name for names in drawn for name in names} == set(order), "every candidate has its turn"
    assert [sorted(data.sample(epoch, "q0")) for epoch in range(3)] == [
        sorted(lists(list_size=13, **QUANTILES).sample(epoch, "q0")) for epoch in range(3)
    ]


def test_quantiles_are_those_of_the_scores_of_the_data():
    """A file lists its documents in any order; a missing score comes last."""
    data = collection()
    split = data.splits["train"]
    scores = {f"d{i}": np.nan if i == 7 else float((37 * i) % 50) for i in range(50)}
    mixed = replace(split, candidates={query: list(scores.items()) for query in split.queries})
    drawn = lists(replace(data, splits={"train": mixed}), list_size=8, **QUANTILES)
    left = [name for name in scores if name not in {"d3", "d4", "d5", "d7"}]
    order = [*sorted(left, key=lambda name: -scores[name]), "d7"]
    for epoch in range(10):
        names = [name for name in drawn.sample(epoch, "q0") if name in order]
        assert parts_of(names, order, 7) == [1] * 7


def test_quantiles_of_few_candidates_are_all_of_them():
    data = lists(collection(candidates=6), list_size=9, sampling="quantile", random_fraction=0.0)
    assert set(data.sample(0, "q1")) == {f"d{i}" for i in range(6)}


def test_quantiles_leave_a_place_to_a_negative():
    """All candidates are relevant but one: without a limit of relevant documents the list still holds it."""
    data = collection(candidates=5)
    split = data.splits["train"]
    judged = replace(split, qrels={**split.qrels, "q1": {f"d{i}": 1 for i in range(4)}})
    drawn = lists(replace(data, splits={"train": judged}), list_size=3, positives=None, **QUANTILES)
    assert all("d4" in drawn.sample(epoch, "q1") for epoch in range(20))


def test_an_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match=r"data.lists.sampling=top: choose random or quantile"):
        ListOptions(sampling="top")
