import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.batch import ListBatch
from data.collection import JUDGED_LISTS
from data.formats.beir import BEIRConfig
from data.sampling.list_options import ListOptions
from data.sampling.mixture import MixtureConfig, make_loader
from losses.info_nce import InfoNCE


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], query_prompt: str = "") -> dict[str, list[list[int]]]:
        return {"input_ids": [[len(query_prompt), *map(ord, document)] for document in documents]}


@pytest.fixture
def sources(write_beir: Callable[..., Path], tmp_path: Path) -> dict[str, BEIRConfig]:
    """ "many" has 12 training queries and lists of candidates alone, "few" has 7, a prompt, and held-out queries."""
    train = {f"q{i}": {f"d{i}": 1} for i in range(12)}
    few = {"train": {f"q{i}": {f"d{i}": 1} for i in range(8)}, "test": {"q15": {"d15": 1}}}
    cache = str(tmp_path)
    hard = ListOptions(random_fraction=0.0)
    many = BEIRConfig(path=str(write_beir("many", train=train)), cache_dir=cache, lists=hard, dev_fraction=0.0)
    return {"many": many, "few": BEIRConfig(path=str(write_beir("few", **few)), cache_dir=cache, query_prompt="ask: ")}


def test_each_source_keeps_its_lists_and_prompts(sources: dict[str, BEIRConfig]):
    data = MixtureConfig(sources=sources).build()
    assert (data.name, set(data.splits)) == ("many + few", {"dev", "test"})
    assert data.split("test").queries.keys() == {"q15"}
    assert data.available_with(list_size=4) == JUDGED_LISTS | {"unit_labels"}
    assert data.available_with(list_size=1) == {"positive"}
    loader = make_loader(
        data, Tokenizer(), list_size=3, batch_size=2, seed=0, rank=0, world_size=1, workers=0, in_batch_negatives=True
    )
    batches = [ListBatch(n, examples) for n, examples in enumerate(itertools.islice(loader.iterate(0), 20))]
    assert {batch.source for batch in batches} == {"many", "few"}
    for batch in batches:
        assert {example.source for example in batch.examples} == {batch.source}
        assert {int(row) for e in batch.examples for row in e.sequences.features["input_ids"][:1]} == {
            0 if batch.source == "many" else len("ask: ")
        }
        assert batch.num_duplicates == 0
    again = itertools.islice(loader.iterate(13), 2)
    assert [[e.document_ids for e in batch] for batch in again] == [
        [e.document_ids for e in batch.examples] for batch in batches[13:15]
    ]


def test_shares_by_weight_or_size(sources: dict[str, BEIRConfig]):
    assert MixtureConfig(sources=sources, weights={"few": 5, "many": 1}).build().shares == {"few": 5, "many": 1}
    assert MixtureConfig(sources=sources).build().shares == {"many": 11, "few": 7}  # dev of few leaves both
    shares = MixtureConfig(sources=sources, temperature=2.0).build().shares
    assert shares["many"] / shares["few"] == pytest.approx((11 / 7) ** 0.5)


@pytest.fixture
def tested(write_beir: Callable[..., Path], tmp_path: Path) -> BEIRConfig:
    """A data set with test queries alone."""
    return BEIRConfig(
        path=str(write_beir("tested", test={"q15": {"d15": 1}, "q3": {"d3": 1}})), cache_dir=str(tmp_path)
    )


def test_a_source_of_test_queries_alone_is_evaluated_and_not_trained_on(
    sources: dict[str, BEIRConfig], tested: BEIRConfig
):
    data = MixtureConfig(sources={"many": sources["many"], "tested": tested}, evaluate_on="tested").build()
    assert (data.name, data.shares) == ("many", {"many": 11}), "q3 is a test query"
    assert data.split("test").queries.keys() == {"q15", "q3"}
    other = BEIRConfig(path=sources["few"].path, cache_dir=tested.cache_dir)
    trained = {"many": sources["many"], "few": other}
    weights = {"many": 3.0, "few": 1.0}
    mixture = MixtureConfig(sources={**trained, "tested": tested}, weights=weights, evaluate_on="tested")
    assert mixture.build().shares == weights


def test_the_test_queries_of_such_a_source_are_part_of_the_fingerprint(
    sources: dict[str, BEIRConfig], tested: BEIRConfig, write_beir: Callable[..., Path]
):
    other = BEIRConfig(path=str(write_beir("other", test={"q15": {"d15": 1}})), cache_dir=tested.cache_dir)
    found = [
        MixtureConfig(sources={"many": sources["many"], "tested": each}, evaluate_on="tested").build().fingerprint
        for each in (tested, other, tested)
    ]
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_what_such_a_source_cannot_have(sources: dict[str, BEIRConfig], tested: BEIRConfig):
    own_loss = replace(tested, loss=InfoNCE())
    with pytest.raises(ValueError, match=r"data\.sources\.tested\.loss has no effect: the data set has no training"):
        MixtureConfig(sources={"many": sources["many"], "tested": own_loss}, evaluate_on="tested").build()
    with pytest.raises(ValueError, match="data tested has no train split"):
        MixtureConfig(sources={"tested": tested}).build().shares  # noqa: B018
    with pytest.raises(ValueError, match=r"data\.weights names tested, expected a weight for each of "):
        MixtureConfig(sources={"many": sources["many"], "tested": tested}, weights={"tested": 1.0})


def test_the_evaluated_source_can_be_chosen(sources: dict[str, BEIRConfig]):
    data = MixtureConfig(sources=sources, evaluate_on="many").build()
    assert not data.splits
    with pytest.raises(ValueError, match=r"data many has no test split \(it has: train\)"):
        data.split("test")
    first = MixtureConfig(sources=sources).build().fingerprint
    assert MixtureConfig(sources=sources, temperature=2.0).build().fingerprint != first


def test_mistakes_name_the_source(sources: dict[str, BEIRConfig]):
    broken = {**sources, "many": BEIRConfig(path="nowhere")}
    with pytest.raises(FileNotFoundError, match=r"^data.sources.many.path=nowhere: no such folder"):
        MixtureConfig(sources=broken).build()
    for options, message in (
        ({"sources": {"a": {"path": "x"}}}, "data.sources.a has no _target_ of a data set"),
        ({"weights": {"few": 1}}, "data.weights names few, expected a weight for each of data.sources: many, few"),
        ({"weights": {"few": 0, "many": 1}}, "data.weights={'few': 0, 'many': 1} must be above 0 and finite"),
        ({"temperature": 0.0}, "data.temperature=0.0 must be above 0"),
        ({"temperature": 2.0, "weights": {"few": 1, "many": 1}}, "data.temperature=2.0 has no effect beside"),
        ({"evaluate_on": "fwe"}, "data.evaluate_on=fwe is none of data.sources: many, few"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            MixtureConfig(**{"sources": sources, **options})
    with pytest.raises(ValueError, match=r"^data.sources is empty: name data sets, such as \+data@data.sources.a=beir"):
        MixtureConfig().build()
