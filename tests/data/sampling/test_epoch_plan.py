from collections import Counter
from collections.abc import Mapping
from itertools import combinations

import pytest

from data.batch import ListBatch
from data.collection import Collection, Split
from data.sampling.epoch_plan import EpochPlan, MixturePlan, UniqueTexts
from data.sampling.list_options import ListOptions
from data.sampling.loader import ListLoader
from data.sampling.training_lists import TrainingLists

NUM_QUERIES = 60


class Tokenizer:
    def encode_list(self, query: str, documents: list[str]) -> Mapping[str, list[list[int]]]:
        return {"input_ids": [[len(query), len(document)] for document in documents]}


def make_lists(topics: int = 20, queries: int = NUM_QUERIES, *, list_size: int = 3, **options: float) -> TrainingLists:
    """Query i has the same text as query i + 30, and is about document i mod `topics`, which has a twin."""
    documents = {f"d{i}": f"text {i // 2}" for i in range(400)}
    texts = {f"q{i}": f"query {i % 30}" for i in range(queries)}
    qrels = {f"q{i}": {f"d{2 * (i % topics)}": 1, f"d{2 * (i % topics) + 1}": 1} for i in range(queries)}
    ranked = {f"q{i}": [(f"d{j % 400}", 1.0) for j in range(3 * i, 3 * i + 12)] for i in range(queries)}
    collection = Collection("tiny", documents, {"train": Split(texts, qrels, ranked)}, "hash")
    chosen = ListOptions(**{"random_fraction": 0.0, **options})
    return TrainingLists(collection, Tokenizer(), list_size=list_size, seed=0, options=chosen)


def plan(lists: TrainingLists, batch_size: int = 6, seed: int = 0, in_batch_negatives: bool = True) -> EpochPlan:
    unique_texts = lists.unique_texts() if in_batch_negatives else None
    return EpochPlan(len(lists), batch_size=batch_size, seed=seed, source=lists.source, unique_texts=unique_texts)


def in_common(lists: TrainingLists, batch: list[tuple[int, int]], every_document: bool) -> int:
    """How many pairs of lists of a batch share a query, a relevant document or (`every_document`) any."""
    count = 0
    for first, second in combinations([lists[key] for key in batch], 2):
        documents = [
            {
                key
                for key, label in zip(e.document_hashes.tolist(), e.labels, strict=True)
                if every_document or label > 0
            }
            for e in (first, second)
        ]
        count += first.query_hash == second.query_hash or bool(documents[0] & documents[1])
    return count


@pytest.mark.parametrize("every_document", [True, False])
def test_no_two_lists_of_a_batch_have_a_text_in_common(every_document: bool):
    lists = make_lists(no_duplicates=every_document)
    planned, free = plan(lists), plan(lists, in_batch_negatives=False)
    assert sum(in_common(lists, free.batch(number), every_document) for number in range(30)) > 10
    assert [in_common(lists, planned.batch(number), every_document) for number in range(30)] == [0] * 30
    duplicates = [ListBatch(n, [lists[key] for key in planned.batch(n)]).num_duplicates for n in range(30)]
    assert (sum(duplicates) == 0) == every_document


def test_lists_that_waited_come_later_in_the_epoch():
    lists = make_lists(no_duplicates=False)
    planned = plan(lists)
    for epoch in range(5):
        met = Counter(index for n in range(10 * epoch, 10 * epoch + 10) for _, index in planned.batch(n))
        assert len(met) > 50  # of 60; the last batches may repeat some
    orders = {tuple(planned.batch(10 * epoch)) for epoch in range(5)}
    assert len(orders) == 5
    assert {epoch for n in range(10, 20) for epoch, _ in planned.batch(n)} == {1}


def test_a_plan_is_a_function_of_the_seed_and_the_number():
    lists = make_lists()
    planned = plan(lists)
    batches = [planned.batch(number) for number in range(25)]
    for number in (24, 3, 17, 3, 10, 11):
        assert planned.batch(number) == batches[number] == plan(make_lists()).batch(number)
    assert plan(lists, seed=1).batch(0) != batches[0]


def test_one_popular_document_leaves_no_batch_short(caplog: pytest.LogCaptureFixture):
    """Three queries of four share their relevant document: most sit the epoch out, the rest repeat."""
    lists = make_lists(no_duplicates=False)
    for i in range(45):
        lists.judgements[f"q{i}"] = {"d0": 1}
    planned = plan(lists, batch_size=4)
    batches = [planned.batch(number) for number in range(300)]
    assert {len(set(batch)) for batch in batches} == {4}
    assert not any(in_common(lists, batch, every_document=False) for batch in batches[:30])
    assert len({index for batch in batches for _, index in batch}) == 60  # all come in some epoch
    assert not caplog.records


def test_a_batch_size_that_cannot_be_is_refused():
    lists = make_lists(topics=5)
    assert len(plan(make_lists(topics=5, no_duplicates=False), batch_size=5).batch(0)) == 5
    with pytest.raises(
        ValueError,
        match=r"^trainer.batch_size=12 is too large for data tiny: .* only \d+ without a common query or "
        r"document were found; set data.in_batch=false .*, or lower "
        r"trainer.batch_size to 5$",
    ):
        plan(lists, batch_size=12)
    message = r"only 5 without a common query or relevant document were found; set data.in_batch=false"
    with pytest.raises(ValueError, match=message):
        plan(make_lists(topics=5, no_duplicates=False), batch_size=6)
    assert len(plan(lists, batch_size=12, in_batch_negatives=False).batch(0)) == 12
    with pytest.raises(
        ValueError, match=r"trainer.batch_size=61 must be between 1 and 60, the number of training queries"
    ):
        plan(lists, batch_size=61)


def test_a_plan_knows_lists_by_number_alone():
    """Lists i and i + 5 share a text: handed as a function, without any data."""
    unique = UniqueTexts(lambda epoch, index: {index % 5}, "text")
    planned = EpochPlan(10, batch_size=5, seed=0, source="numbers", unique_texts=unique)
    for number in range(6):
        assert sorted(index % 5 for _, index in planned.batch(number)) == [0, 1, 2, 3, 4]
    with pytest.raises(
        ValueError,
        match=r"data numbers: .* only 5 without a common text were found; .* or lower trainer.batch_size to 5$",
    ):
        EpochPlan(10, batch_size=6, seed=0, source="numbers", unique_texts=unique)


def test_ranks_share_the_planned_batches():
    def take(rank: int, world_size: int) -> list[list[str]]:
        lists = make_lists()
        loader = ListLoader(lists, plan(lists, seed=3), rank=rank, world_size=world_size, workers=0)
        batches = loader.iterate(8)
        return [[example.query_id for example in next(batches)] for _ in range(4)]

    whole, shares = take(0, 1), [take(rank, 2) for rank in range(2)]
    for number, batch in enumerate(whole):
        assert [shares[i % 2][number][i // 2] for i in range(6)] == batch


def mixture(seed: int = 0) -> MixturePlan:
    plans = {"small": plan(make_lists(queries=20), batch_size=4), "large": plan(make_lists(), batch_size=4)}
    return MixturePlan(plans, {"small": 1.0, "large": 3.0}, seed=seed)


def test_a_mixture_takes_each_batch_from_one_source():
    planned = mixture()
    batches = [planned.batch(number) for number in range(400)]
    sources = [{name for name, _, _ in batch} for batch in batches]
    assert {len(names) for names in sources} == {1}
    small = sum(names == {"small"} for names in sources)
    assert abs(small - 100) < 35  # 4 standard deviations
    own = plan(make_lists(queries=20), batch_size=4)
    drawn = [[key[1:] for key in batch] for batch in batches if batch[0][0] == "small"]
    assert drawn == [own.batch(number) for number in range(small)]  # none is skipped
    for number in (399, 5, 250):
        assert planned.batch(number) == mixture().batch(number) == batches[number]
    assert [mixture(1).source(n) for n in range(50)] != [planned.source(n) for n in range(50)]


@pytest.mark.parametrize("number", [0, 3, 10, 11, 14])
@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_a_plan_goes_on_from_what_was_drawn(number: int, in_batch_negatives: bool):
    """What a refresh keeps is enough, whatever was planned in advance, and without the earlier candidates."""
    lists = make_lists(no_duplicates=True)
    first = plan(lists, in_batch_negatives=in_batch_negatives)
    earlier = [first.batch(n) for n in range(number)]
    first.batch(number + 2)  # in advance
    drawn = first.drawn(number)
    epoch = number // 10
    assert list(drawn[lists.source]) == [index for batch in earlier for e, index in batch if e == epoch]
    lists.refresh({query: [(f"d{j}", 1.0) for j in range(200, 240)] for query in lists.query_ids})
    first.restart(number, drawn)
    rest = [first.batch(n) for n in range(number, 30)]
    again = plan(lists, in_batch_negatives=in_batch_negatives)
    again.restart(number, {lists.source: [*drawn[lists.source]]})
    assert [again.batch(n) for n in range(number, 30)] == rest
    assert again.drawn(number + 1) == first.drawn(number + 1)
    if not in_batch_negatives:
        assert rest == [plan(lists, in_batch_negatives=False).batch(n) for n in range(number, 30)]
    of_epoch = [index for batch in rest[: 10 * (epoch + 1) - number] for _, index in batch]
    repeated = set(of_epoch) & set(drawn[lists.source])
    assert len(repeated) <= (6 if in_batch_negatives else 0)  # the last batch may have to repeat some


def test_what_comes_next_is_what_is_drawn_next():
    lists = make_lists()
    planned = plan(lists, in_batch_negatives=False)
    for number in (0, 4, 9):
        drawn = planned.drawn(number)
        (coming,) = planned.upcoming(number, drawn, 12).values()
        assert set(coming) == {index for n in (number, number + 1) for _, index in planned.batch(n)}
    assert planned.upcoming(3, planned.drawn(3), None) == {"tiny": range(60)}
    sources = {"a": plan(lists, in_batch_negatives=False), "b": plan(lists, in_batch_negatives=False)}
    for name, each in sources.items():
        each.source = name
    mixed = MixturePlan(sources, {"a": 3.0, "b": 1.0}, seed=0)
    drawn = mixed.drawn(8)
    counts = Counter(mixed.source(number) for number in range(8))
    assert {name: len(indices) for name, indices in drawn.items()} == {name: 6 * counts[name] for name in "ab"}
    assert {name: len(indices) for name, indices in mixed.upcoming(8, drawn, 16).items()} == {"a": 12, "b": 4}
    rest = [mixed.batch(number) for number in range(8, 20)]
    mixed.restart(8, drawn)
    assert [mixed.batch(number) for number in range(8, 20)] == rest
